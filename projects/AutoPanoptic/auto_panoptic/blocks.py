"""The blocks of the searched backbone (supplement of Auto-Panoptic, Table 1; DetNAS).

N images; C, C' channels of the input and the output; H, W the size of the input, s the stride.
"""

import torch
from torch import nn

from .architecture import BLOCKS
from .choices import MakeNorm

__all__ = ["KERNELS", "ShuffleBlock"]

# Of the depthwise convolutions, in pixels.
KERNELS = {"3x3": 3, "5x5": 5, "7x7": 7, "xception": 3}


class ShuffleBlock(nn.Module):
    """A block of ShuffleNetV2, with a kernel of 3, 5 or 7 pixels or as an Xception block.

    With a stride of 1, every second channel passes and the others go through the main branch. With a stride of 2,
    both branches read all channels.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, kind: str, make_norm: MakeNorm):
        """
        Args:
            inputs, outputs: C and C'; equal, and even, with a stride of 1.
            kind: one of :data:`BLOCKS`.
        """
        super().__init__()
        if kind not in BLOCKS:
            raise ValueError(f"kind must be one of {', '.join(BLOCKS)}; got {kind!r}")
        if stride == 1 and (inputs != outputs or inputs % 2):
            raise ValueError(f"a block of stride 1 must have equal and even channels; got {inputs} and {outputs}")
        self.stride = stride
        kernel, middle = KERNELS[kind], outputs // 2
        inputs = inputs // 2 if stride == 1 else inputs
        new = outputs - inputs
        if kind == "xception":
            layers = [
                *_separable(inputs, middle, stride, make_norm),
                *_separable(middle, middle, 1, make_norm),
                *_separable(middle, new, 1, make_norm),
            ]
        else:
            layers = [
                *_pointwise(inputs, middle, make_norm),
                _depthwise(middle, kernel, stride),
                make_norm(middle),
                *_pointwise(middle, new, make_norm),
            ]
        self.main = nn.Sequential(*layers)
        self.passing = nn.Identity()
        if stride == 2:
            moved = [_depthwise(inputs, kernel, 2), make_norm(inputs), *_pointwise(inputs, inputs, make_norm)]
            self.passing = nn.Sequential(*moved)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (N, C, H, W) to (N, C', H / s, W / s)."""
        passing, main = (x[:, ::2], x[:, 1::2]) if self.stride == 1 else (x, x)
        return torch.cat([self.passing(passing), self.main(main)], dim=1)


def _depthwise(channels: int, kernel: int, stride: int) -> nn.Conv2d:
    return nn.Conv2d(channels, channels, kernel, stride, kernel // 2, groups=channels, bias=False)


def _pointwise(inputs: int, outputs: int, make_norm: MakeNorm) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, 1, bias=False), make_norm(outputs), nn.ReLU()]


def _separable(inputs: int, outputs: int, stride: int, make_norm: MakeNorm) -> list[nn.Module]:
    return [_depthwise(inputs, 3, stride), make_norm(inputs), *_pointwise(inputs, outputs, make_norm)]

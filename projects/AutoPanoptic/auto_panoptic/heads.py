"""The searched layers of the mask head and of the semantic subnet.

N images or boxes; C, C' channels of the input and the output; M the side of a pooled map.
"""

from collections.abc import Sequence

import fvcore.nn.weight_init as weight_init
import torch
from torch import nn

from adet_ext.d2.layers import ModulatedDeformConv, get_norm

from .choices import Choices

__all__ = ["DeformLayer", "MaskHead", "head_layer", "searched_layers"]


class DeformLayer(nn.Module):
    """A modulated deformable convolution whose offsets, at first 0, come from a convolution of the same kernel."""

    def __init__(self, inputs: int, outputs: int, kernel: int):
        super().__init__()
        self.offset = nn.Conv2d(inputs, 3 * kernel**2, kernel, padding=kernel // 2)
        nn.init.zeros_(self.offset.weight)
        nn.init.zeros_(self.offset.bias)
        self.conv = ModulatedDeformConv(inputs, outputs, kernel, stride=1, padding=kernel // 2, bias=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (N, C, H, W) to (N, C', H, W)."""
        y, x_, mask = self.offset(x).chunk(3, dim=1)
        return self.conv(x, torch.cat([y, x_], dim=1), mask.sigmoid())


def head_layer(name: str, inputs: int, outputs: int) -> nn.Sequential:
    """Return a layer with group norm and ReLU: (N, C, H, W) -> (N, C', H, W).

    Args:
        name: DW, depthwise and then 1x1; DF, modulated deformable; AT, atrous with a rate of 2; and the kernel, 3 or 5.
    """
    kind, kernel = name[:2], int(name[2:])
    if kind == "DW":
        depthwise = nn.Conv2d(inputs, inputs, kernel, padding=kernel // 2, groups=inputs)
        layer = nn.Sequential(depthwise, nn.Conv2d(inputs, outputs, 1))
        for conv in layer:
            nn.init.xavier_normal_(conv.weight)
            nn.init.zeros_(conv.bias)
    elif kind == "DF":
        layer = DeformLayer(inputs, outputs, kernel)
    else:
        layer = nn.Conv2d(inputs, outputs, kernel, padding=kernel - 1, dilation=2)
        weight_init.c2_msra_fill(layer)
    return nn.Sequential(layer, get_norm("GN", outputs), nn.ReLU())


def searched_layers(choices: Sequence[Sequence[str]], inputs: int, width: int) -> nn.Sequential:
    """Return a chain of searched layers of ``width`` channels, one for each entry of ``choices``."""
    if width % 32:
        raise ValueError(f"the width of a searched head must be a multiple of 32, the groups of its norms; got {width}")
    layers = []
    for names in choices:
        layers.append(Choices(names, lambda name, channels=inputs: head_layer(name, channels, width)))
        inputs = width
    return nn.Sequential(*layers)


class MaskHead(nn.Module):
    """The searched layers before the mask predictor."""

    def __init__(self, choices: Sequence[Sequence[str]], inputs: int, width: int):
        super().__init__()
        self.layers = searched_layers(choices, inputs, width)
        self.width = width

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (N, C, M, M) to (N, width, M, M). In training without boxes, one empty box keeps every parameter in the
        graph: distributed training waits for all gradients."""
        if len(x) == 0:
            if not self.training:
                return x.new_zeros(0, self.width, *x.shape[2:])
            x = x.new_zeros(1, *x.shape[1:])
        return self.layers(x)

"""The convolutions of the space, with dynamic factors where they are given, and what they cost.

C channels in, O out.
"""

import torch
from torch import nn

from adet_ext.d2.layers import get_norm
from adet_ext.layers.dr1_conv import dr1_conv

__all__ = ["Layer", "products"]


def _parts(name: str) -> tuple[str, int]:
    kind, _, size = name.partition("_")
    return kind, int(size[0])


def products(name: str, inputs: int, outputs: int) -> int:
    """Return the multiply-adds of an operation at one place; 0 for "skip"."""
    if name == "skip":
        return 0
    kind, kernel = _parts(name)
    return kernel**2 * inputs + inputs * outputs if kind == "sep" else kernel**2 * inputs * outputs


class Layer(nn.Module):
    """Convolution, norm, ReLU; the convolution may be modulated by A before it and B after it.

    It is dense ("conv"), depthwise and then 1x1 ("sep"), or has a rate of two ("atrous").
    """

    def __init__(self, name: str, inputs: int, outputs: int, norm: str):
        super().__init__()
        kind, kernel = _parts(name)
        self.dense = kind == "conv"
        rate = 2 if kind == "atrous" else 1
        options = {"padding": rate * (kernel // 2), "dilation": rate}
        if kind == "sep":
            depthwise = nn.Conv2d(inputs, inputs, kernel, groups=inputs, bias=False, **options)
            self.conv = nn.Sequential(depthwise, nn.Conv2d(inputs, outputs, 1, bias=not norm))
        else:
            self.conv = nn.Conv2d(inputs, outputs, kernel, bias=not norm, **options)
        for module in self.conv.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_uniform_(module.weight, a=1)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        self.finish = nn.Sequential(*([get_norm(norm, outputs)] if norm else []), nn.ReLU())

    def forward(self, x: torch.Tensor, a: torch.Tensor | None = None, b: torch.Tensor | None = None) -> torch.Tensor:
        """Map (N, C, H, W) to (N, O, H, W); ``a`` is like ``x``, ``b`` like the result."""
        if a is None and b is None:
            return self.finish(self.conv(x))
        if self.dense:
            weight, bias = self.conv.weight, self.conv.bias
            return self.finish(dr1_conv(x, a, b, weight, bias, padding=self.conv.padding[0]))
        y = self.conv(x if a is None else x * a)
        return self.finish(y if b is None else y * b)

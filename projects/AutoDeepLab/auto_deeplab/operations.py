"""The operations of a cell: eight, between two maps of f channels, with a stride of 1 or 2.

Structure as in the authors' code: no bias, the ReLU comes first, and a separable convolution is two depthwise and two
pointwise ones.
"""

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F

__all__ = ["NONE", "OPERATIONS", "MakeNorm", "build_operation", "half", "resize"]

MakeNorm = Callable[[int], nn.Module]

NONE = "none"
# In the order of the paper's list; alpha has one number for each.
OPERATIONS = ("sep_3x3", "sep_5x5", "atrous_3x3", "atrous_5x5", "avg_pool_3x3", "max_pool_3x3", "skip", NONE)
_RATE = 2


def resize(x: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Resize a map bilinearly to (height, width), its corners staying corners, as in the authors' code."""
    return x if x.shape[-2:] == size else F.interpolate(x, size=size, mode="bilinear", align_corners=True)


def half(size: tuple[int, int]) -> tuple[int, int]:
    """Return height and width after a stride of 2, rounded up."""
    height, width = size
    return (height + 1) // 2, (width + 1) // 2


def build_operation(name: str, channels: int, stride: int, make_norm: MakeNorm) -> nn.Module:
    """Return an operation: (N, f, H, W) to (N, f, H / stride, W / stride)."""
    kind, _, kernel = name.partition("_")
    if kind == "sep":
        return _separable(channels, int(kernel[0]), stride, make_norm)
    if kind == "atrous":
        return Atrous(channels, int(kernel[0]), stride, make_norm)
    if name == "avg_pool_3x3":
        return nn.AvgPool2d(3, stride, padding=1, count_include_pad=False)
    if name == "max_pool_3x3":
        return nn.MaxPool2d(3, stride, padding=1)
    if name == "skip":
        if stride == 1:
            return nn.Identity()
        conv = nn.Conv2d(channels, channels, 1, stride=stride, bias=False)
        return nn.Sequential(nn.ReLU(), conv, make_norm(channels))
    return Nothing(stride)


def _separable(channels: int, kernel: int, stride: int, make_norm: MakeNorm) -> nn.Sequential:
    layers: list[nn.Module] = []
    for step in (stride, 1):
        layers += [
            nn.ReLU(),
            nn.Conv2d(channels, channels, kernel, step, kernel // 2, groups=channels, bias=False),
            nn.Conv2d(channels, channels, 1, bias=False),
            make_norm(channels),
        ]
    return nn.Sequential(*layers)


class Atrous(nn.Sequential):
    """ReLU, a dense convolution of rate 2, norm. With a stride of 2 the map is halved first, and the rate is 1."""

    def __init__(self, channels: int, kernel: int, stride: int, make_norm: MakeNorm):
        rate = _RATE if stride == 1 else 1
        padding = rate * (kernel // 2)
        conv = nn.Conv2d(channels, channels, kernel, padding=padding, dilation=rate, bias=False)
        super().__init__(nn.ReLU(), conv, make_norm(channels))
        self.stride = stride

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x if self.stride == 1 else resize(x, half(tuple(x.shape[-2:]))))


class Nothing(nn.Module):
    """Zeros: no connection."""

    def __init__(self, stride: int):
        super().__init__()
        self.stride = stride

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(x[..., :: self.stride, :: self.stride])

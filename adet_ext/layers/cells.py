"""What searched cells are made of: operations on one map, and two ways to merge two maps.

N images, C channels, H x W a map. A project names those of its search space; their parameters have the same names in
all projects. Each norm is made by a function of the number of channels.
"""

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F

from .deform import ModulatedDeformBlock

__all__ = [
    "DEFORMABLE_GROUPS",
    "Concatenation",
    "MakeNorm",
    "WeightedSum",
    "deformable",
    "larger_size",
    "match",
    "plain",
    "resize",
    "separable",
]

MakeNorm = Callable[[int], nn.Module]

DEFORMABLE_GROUPS = 2


def separable(channels: int, make_norm: MakeNorm, kernel: int, dilation: int = 1, repeats: int = 1) -> nn.Sequential:
    """Return a k x k depthwise and a 1x1 convolution, norm and ReLU, ``repeats`` times: (N, C, H, W) to the same."""
    padding = dilation * (kernel // 2)
    layers: list[nn.Module] = []
    for _ in range(repeats):
        layers += [
            nn.Conv2d(channels, channels, kernel, padding=padding, dilation=dilation, groups=channels, bias=False),
            nn.Conv2d(channels, channels, 1, bias=False),
            make_norm(channels),
            nn.ReLU(inplace=True),
        ]
    return nn.Sequential(*layers)


def plain(in_channels: int, channels: int, make_norm: MakeNorm, kernel: int, dilation: int = 1) -> nn.Sequential:
    """Return a k x k convolution, norm and ReLU: (N, C_in, H, W) to (N, C, H, W)."""
    padding = dilation * (kernel // 2)
    conv = nn.Conv2d(in_channels, channels, kernel, padding=padding, dilation=dilation, bias=False)
    return nn.Sequential(conv, make_norm(channels), nn.ReLU(inplace=True))


def deformable(channels: int, make_norm: MakeNorm) -> nn.Sequential:
    """Return a 3x3 modulated deformable convolution with two groups of offsets, norm and ReLU, at C channels."""
    conv = ModulatedDeformBlock(channels, channels, groups=DEFORMABLE_GROUPS, zero_offsets=True)
    return nn.Sequential(conv, make_norm(channels), nn.ReLU(inplace=True))


def resize(x: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Resize a map bilinearly to (height, width), with pixel centers aligned."""
    return x if x.shape[-2:] == size else F.interpolate(x, size=size, mode="bilinear", align_corners=False)


def larger_size(x: torch.Tensor, y: torch.Tensor) -> tuple[int, int]:
    """Return (height, width) of the larger of two maps, which is the one that is higher, then wider."""
    return max(tuple(x.shape[-2:]), tuple(y.shape[-2:]))


def match(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Bring the smaller of two maps to the size of the larger."""
    size = larger_size(x, y)
    return resize(x, size), resize(y, size)


class WeightedSum(nn.Module):
    """a x + b y with a learned weight per channel, which starts at 1.

    With more channels out than in, each input channel feeds as many output channels, each with weights of its own.
    """

    def __init__(self, channels: int, out_channels: int):
        super().__init__()
        self.copies = out_channels // channels
        self.a = nn.Parameter(torch.ones(out_channels))
        self.b = nn.Parameter(torch.ones(out_channels))

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        x, y = match(x, y)
        if self.copies > 1:
            x, y = (z.repeat_interleave(self.copies, dim=1) for z in (x, y))
        return self.a[:, None, None] * x + self.b[:, None, None] * y


class Concatenation(nn.Sequential):
    """Concatenate to 2 C channels; norm, ReLU, and a 1x1 convolution in C groups of two channels.

    The convolution gives C channels, or a multiple of C.
    """

    def __init__(self, channels: int, out_channels: int, make_norm: MakeNorm):
        super().__init__(
            make_norm(2 * channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(2 * channels, out_channels, 1, groups=channels, bias=False),
        )

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return super().forward(torch.cat(match(x, y), dim=1))

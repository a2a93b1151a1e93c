"""How the dynamic cell merges two maps (thesis Table 6.2), as listings 1 to 3 of the supplement define it.

N images, C channels, H x W the larger map. An aggregation takes a first map x and a second map y, both of C channels,
enlarges the smaller one bilinearly to the size of the larger, and gives N x C x H x W.
"""

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F

from adet_ext.layers.cells import Concatenation, WeightedSum, match
from adet_ext.layers.deform import ConvWeights

__all__ = [
    "AGGREGATIONS",
    "SYMMETRIC",
    "BilinearSampling",
    "DenseAttention",
    "Predictive",
    "VolumeConv",
    "build_aggregation",
]

_KERNEL = 3  # of the predicted filters and of the 3-D convolution


class Predictive(nn.Module):
    """x gives a filter of 3 x 3 weights for every place, which is applied to y there, the same in all channels."""

    def __init__(self, channels: int):
        super().__init__()

        def depthwise() -> nn.Conv2d:
            return nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)

        self.filters = nn.Sequential(
            nn.ReLU(),
            depthwise(),
            nn.ReLU(inplace=True),
            depthwise(),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, _KERNEL**2, 1, bias=False),
            nn.Softmax(dim=1),
        )

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        x, y = match(x, y)
        height, width = y.shape[-2:]
        weights = self.filters(x)  # N x 9 x H x W, row by row of the filter
        padded = F.pad(y, (1, 1, 1, 1))  # N x C x H + 2 x W + 2
        result = torch.zeros_like(y)
        for k in range(_KERNEL**2):  # a shift at a time: all nine of them at once would take nine times the memory
            top, left = divmod(k, _KERNEL)
            shifted = padded[:, :, top : top + height, left : left + width]
            result = torch.addcmul(result, weights[:, k : k + 1], shifted)
        return result


class BilinearSampling(nn.Module):
    """y gives an affine map of the plane; x is sampled bilinearly where it leads, zero outside, and added to y.

    The corners of the map are aligned with those of the grid, as in the PyTorch of the listing. The affine map does not
    start as the identity.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, 6, 1, bias=False)
        self.linear = nn.Linear(6, 6)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        x, y = match(x, y)
        pooled = self.conv(y).relu().mean((2, 3))  # N x 6
        matrix = self.linear(pooled).view(-1, 2, 3)
        grid = F.affine_grid(matrix, list(x.shape), align_corners=True)  # N x H x W x 2
        return F.grid_sample(x, grid.to(x.dtype), align_corners=True) + y


class VolumeConv(nn.Module):
    """x and y are stacked to a depth of two; a 2 x 3 x 3 convolution of each channel of its own goes over them."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = ConvWeights(2, channels, _KERNEL, bias=False)  # C x 2 x 3 x 3, drawn as those of a 3-D convolution

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        # One slice of the kernel for each of the two: the same numbers, in operators that are fast on CPUs too.
        return sum(
            F.conv2d(z, self.conv.weight[:, depth : depth + 1], padding=_KERNEL // 2, groups=z.shape[1])
            for depth, z in enumerate(match(x, y))
        )


class DenseAttention(nn.Module):
    """x times sigmoid(y), element by element."""

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        x, y = match(x, y)
        return x * y.sigmoid()


_AGGREGATIONS: dict[str, Callable[[int], nn.Module]] = {
    "weighted_sum": lambda channels: WeightedSum(channels, channels),
    "concat": lambda channels: Concatenation(channels, channels, nn.BatchNorm2d),
    "predictive": Predictive,
    "bilinear_sampling": BilinearSampling,
    "conv_3d": VolumeConv,
    "dense_attention": lambda channels: DenseAttention(),
}

# In the order of their numbers.
AGGREGATIONS = tuple(_AGGREGATIONS)
# Those that give the same for exchanged inputs, with parameters exchanged too. The 1x1 convolution after the
# concatenation has groups of two neighboring channels, so that it does not: which channels come from x would change.
SYMMETRIC = ("weighted_sum", "conv_3d")


def build_aggregation(name: str, channels: int) -> nn.Module:
    """Return a merge of two maps of C channels; ``name`` is one of :data:`AGGREGATIONS`."""
    return _AGGREGATIONS[name](channels)

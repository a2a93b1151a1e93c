"""Evaluate convolutions at a few locations of a feature pyramid.

N images, C channels, L locations over all levels (level by level, each row by row), P chosen locations, k x k a kernel.

A layer on top of a tower has hundreds of output channels and is read at a hundred locations. Evaluating it only there
gives the same numbers as the dense convolution at a small fraction of the cost, in training and in inference.
"""

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import nn
from torch.nn import functional as F

from .tables import number_table

__all__ = ["conv_at", "unravel_locations"]


def conv_at(conv: nn.Conv2d, maps: Sequence[torch.Tensor], image: torch.Tensor, location: torch.Tensor) -> torch.Tensor:
    """Evaluate ``conv`` (k x k with k odd, stride 1, zero padding k // 2) at chosen locations.

    Args:
        conv: the layer; its weight is (O, C, k, k).
        maps: one (N, C, H_l, W_l) feature map per level.
        image: (P,) int64, the image of each location, in [0, N).
        location: (P,) int64, position in the levels' maps laid end to end, in [0, L).

    Returns:
        (P, O), row p being ``conv(maps[level])[image, :, y, x]``.
    """
    k = conv.kernel_size[0]
    neighbors = _neighbor_index(maps, image, location, k)  # (P, k^2)
    # A border of zeros around each level replaces the padding of the dense convolution.
    padded = [F.pad(x, (k // 2,) * 4).permute(0, 2, 3, 1).flatten(1, 2) for x in maps]  # N x (H+k-1)(W+k-1) x C
    rows = torch.cat(padded, dim=1).flatten(0, 1)  # (N * S, C)
    patches = rows.index_select(0, neighbors.flatten())  # (k^2 P, C)
    weight = conv.weight.permute(0, 2, 3, 1).flatten(1)  # (O, k^2 C)
    return F.linear(patches.reshape(location.shape[0], weight.shape[1]), weight, conv.bias)


def unravel_locations(
    sizes: Sequence[tuple[int, int]], location: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return level, row and column, (P,) each, of positions in maps of the given (H_l, W_l) laid end to end."""
    starts = [0, *accumulate(h * w for h, w in sizes)]
    table = number_table([starts[:-1], [w for _, w in sizes]], location.device)
    level = torch.bucketize(location, table[0, 1:], right=True)
    start, width = table[:, level]
    inside = location - start
    y = inside.div(width, rounding_mode="floor")
    return level, y, inside - y * width


def _neighbor_index(maps: Sequence[torch.Tensor], image: torch.Tensor, location: torch.Tensor, k: int) -> torch.Tensor:
    """Return the indices, (P, k^2), of each location's k x k neighbors in the padded maps laid end to end."""
    device = location.device
    sizes = [x.shape[-2:] for x in maps]
    starts = [0, *accumulate((h + k - 1) * (w + k - 1) for h, w in sizes)]
    level, y, x = unravel_locations(sizes, location)
    start, stride = number_table([starts[:-1], [w + k - 1 for _, w in sizes]], device)[:, level]
    corner = image * starts[-1] + start + y * stride + x  # the upper left neighbor
    step = torch.arange(k, device=device)
    grid = step[None, :, None] * stride[:, None, None] + step[None, None, :]  # (P, k, k)
    return (corner[:, None, None] + grid).flatten(1)

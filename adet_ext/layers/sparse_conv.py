"""A 3x3 convolution evaluated at a few locations of a feature pyramid.

N images, C channels, L locations over all levels (level by level, each row by row), P chosen locations.

The top layer of BlendMask has hundreds of output channels and is read at a hundred locations: computing it there
alone gives the same numbers as the dense convolution at a small fraction of its cost, in training as in inference.
"""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

__all__ = ["conv3x3_at"]


def conv3x3_at(
    conv: nn.Conv2d, maps: Sequence[torch.Tensor], image: torch.Tensor, location: torch.Tensor
) -> torch.Tensor:
    """Evaluate ``conv`` (3x3, stride 1, zero padding 1) at chosen locations.

    Args:
        conv: the layer; its weight is (O, C, 3, 3).
        maps: one (N, C, H_l, W_l) feature map per level.
        image: (P,) int64, the image of each location, in [0, N).
        location: (P,) int64, position in the levels' maps laid end to end, in [0, L).

    Returns:
        (P, O), row p being ``conv(maps[level])[image, :, y, x]``.
    """
    neighbours = _neighbour_index(maps, image, location)  # (P, 9)
    # One zero border around each level stands for the padding of the dense convolution.
    padded = [F.pad(x, (1, 1, 1, 1)).permute(0, 2, 3, 1).flatten(1, 2) for x in maps]  # N x (H+2)(W+2) x C
    rows = torch.cat(padded, dim=1).flatten(0, 1)  # (N * S, C)
    patches = rows.index_select(0, neighbours.flatten())  # (9P, C)
    weight = conv.weight.permute(0, 2, 3, 1).flatten(1)  # (O, 9C)
    return F.linear(patches.reshape(len(location), weight.shape[1]), weight, conv.bias)


def _neighbour_index(maps: Sequence[torch.Tensor], image: torch.Tensor, location: torch.Tensor) -> torch.Tensor:
    """Rows of the 3x3 neighbours of each location in the padded maps laid end to end, image by image: (P, 9)."""
    device = location.device
    heights, widths = [x.shape[-2] for x in maps], [x.shape[-1] for x in maps]
    starts, padded_starts = [0], [0]
    for h, w in zip(heights, widths):
        starts.append(starts[-1] + h * w)
        padded_starts.append(padded_starts[-1] + (h + 2) * (w + 2))
    ends = torch.tensor(starts[1:-1], device=device)
    level = torch.bucketize(location, ends, right=True)  # (P,)
    start = torch.tensor(starts[:-1], device=device)[level]
    padded_start = torch.tensor(padded_starts[:-1], device=device)[level]
    width = torch.tensor(widths, device=device)[level]
    inside = location - start
    y = inside.div(width, rounding_mode="floor")
    x = inside - y * width
    stride = width + 2
    corner = image * padded_starts[-1] + padded_start + y * stride + x  # the upper left neighbour
    step = torch.arange(3, device=device)
    grid = step[None, :, None] * stride[:, None, None] + step[None, None, :]  # (P, 3, 3)
    return (corner[:, None, None] + grid).flatten(1)

"""Evaluate a modulated deformable convolution at a few locations of a feature pyramid.

N images, C channels, L locations over all levels (level by level, each row by row), P chosen locations, k x k a kernel.
"""

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch.nn import functional as F

from .sparse_conv import unravel_locations
from .tables import number_table

__all__ = ["deform_conv_at"]


def deform_conv_at(
    maps: Sequence[torch.Tensor],
    image: torch.Tensor,
    location: torch.Tensor,
    offsets: torch.Tensor,
    mask: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
) -> torch.Tensor:
    """Evaluate deformable convolution v2 (k x k with k odd, stride 1, padding k // 2) at chosen locations.

    Args:
        maps: one (N, C, H_l, W_l) feature map per level.
        image: (P,) int64, the image of each location, in [0, N).
        location: (P,) int64, position in the levels' maps laid end to end, in [0, L).
        offsets: (P, 2 k^2) in cells, (dy, dx) tap by tap, row by row.
        mask: (P, k^2) factors on the samples.
        weight: (O, C, k, k).
        bias: (O,) or None.

    Returns:
        (P, O): what ``torchvision.ops.deform_conv2d`` has at these locations, given these offsets and factors there.
    """
    k = weight.shape[-1]
    sizes = [x.shape[-2:] for x in maps]
    level, row, column = unravel_locations(sizes, location)
    starts = [0, *accumulate(h * w for h, w in sizes)]
    table = number_table([[h for h, _ in sizes], [w for _, w in sizes], starts[:-1]], location.device)
    height, width, start = table[:, level, None]  # (P, 1) each

    step = torch.arange(k, device=location.device) - k // 2
    y = row[:, None] + step.repeat_interleave(k) + offsets[:, 0::2]  # (P, k^2)
    x = column[:, None] + step.repeat(k) + offsets[:, 1::2]
    top, left = y.detach().floor(), x.detach().floor()
    indices, weights = [], []
    for i in (0, 1):
        for j in (0, 1):
            cy, cx = top + i, left + j
            inside = (cy >= 0) & (cy < height) & (cx >= 0) & (cx < width)
            value = (1 - (y - cy).abs()) * (1 - (x - cx).abs()) * mask
            weights.append(torch.where(inside, value, 0))
            cell = start + torch.where(inside, cy, 0).long() * width + torch.where(inside, cx, 0).long()
            indices.append(image[:, None] * starts[-1] + cell)
    # All levels of an image end to end, a row of C values for each cell.
    cells = torch.cat([m.permute(0, 2, 3, 1).flatten(1, 2) for m in maps], dim=1).flatten(0, 1)  # (N * S, C)
    # One weighted sum of four rows for each sample, so that the four are not stored.
    samples = F.embedding_bag(
        torch.stack(indices, dim=-1).flatten(0, 1),  # (P k^2, 4)
        cells,
        per_sample_weights=torch.stack(weights, dim=-1).flatten(0, 1).to(cells.dtype),
        mode="sum",
    )  # (P k^2, C)
    weight = weight.permute(0, 2, 3, 1).flatten(1)  # (O, k^2 C)
    return F.linear(samples.reshape(location.shape[0], weight.shape[1]), weight, bias)

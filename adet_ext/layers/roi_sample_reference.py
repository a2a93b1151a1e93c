"""Compute roi_sample in plain PyTorch. This specifies it, and serves without the compiled operators.

H_l x W_l the map of level l, S = the sum of all H_l W_l, kh x kw points a box; other letters as in
:mod:`adet_ext.layers`.
"""

from collections.abc import Sequence

import torch

from .floats import sum_dtype
from .tables import number_table

__all__ = ["roi_sample_reference"]


def roi_sample_reference(
    features: Sequence[torch.Tensor],
    boxes: torch.Tensor,
    image: torch.Tensor,
    level: torch.Tensor,
    *,
    strides: Sequence[float],
    size: tuple[int, int],
    border: str = "clamp",
) -> torch.Tensor:
    """Sample boxes as :func:`~.roi_sample.roi_sample` does, which this function specifies."""
    kh, kw = size
    kind, device = sum_dtype(features[0].dtype), boxes.device
    heights, widths = [x.shape[-2] for x in features], [x.shape[-1] for x in features]
    area = [h * w for h, w in zip(heights, widths)]
    starts = [sum(area[:i]) for i in range(len(area))]
    table = number_table([heights, widths, starts], device).index_select(1, level)  # (3, D)
    height, width, start = table[:, :, None, None]  # (D, 1, 1) each
    scale = number_table([[1 / s for s in strides]], device, kind)[0, level]  # (D,)
    low, high = (boxes.to(kind) * scale[:, None] - 0.5).split(2, dim=1)  # (D, 2) each: x, y
    step = (high - low) / number_table([[kw, kh]], device, kind)  # (D, 2)

    def centers(axis: int, parts: int) -> torch.Tensor:
        i = torch.arange(parts, device=device, dtype=kind) + 0.5
        return low[:, axis, None] + i * step[:, axis, None]  # (D, parts)

    rows = _neighbors(centers(1, kh)[:, :, None], height, border)  # (D, kh, 1) each
    columns = _neighbors(centers(0, kw)[:, None, :], width, border)  # (D, 1, kw) each
    # All levels of an image end to end, a row of C values for each cell.
    cells = torch.cat([x.permute(0, 2, 3, 1).flatten(1, 2) for x in features], dim=1)  # (N, S, C)
    base = image[:, None, None] * cells.shape[1] + start
    cells = cells.flatten(0, 1)  # (N * S, C)
    samples = cells.new_zeros((), dtype=kind)
    for y, wy in rows:
        for x, wx in columns:
            index = (base + y * width + x).flatten()  # (D * kh * kw,)
            samples = samples + cells.index_select(0, index).to(kind) * (wy * wx).reshape(-1, 1)  # (D * kh * kw, C)
    return samples.to(features[0].dtype).reshape(boxes.shape[0], kh, kw, cells.shape[1]).permute(0, 3, 1, 2)


def _neighbors(p: torch.Tensor, size: torch.Tensor, border: str) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Return the two cells next to coordinate ``p`` in a row of ``size``, and their weights; see csrc/bilinear.h."""
    inside = (p >= -1) & (p <= size) if border == "clamp" else (p > -1) & (p < size)
    p = torch.where(inside, p, 0)  # also for NaN
    if border == "clamp":
        p = torch.minimum(p.clamp(min=0), (size - 1).to(p.dtype))
    low = p.detach().floor()
    i = low.long()
    high_weight = torch.where(i + 1 < size, p - low, 0)
    low_weight = 1 - high_weight if border == "clamp" else torch.where(i >= 0, 1 - (p - low), 0)
    return [
        (i.clamp(min=0), torch.where(inside, low_weight, 0)),
        (torch.minimum(i + 1, size - 1), torch.where(inside, high_weight, 0)),
    ]

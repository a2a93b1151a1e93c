"""RoIPred: a predictor that samples the features at the centres of an evenly divided box (thesis 3.3.1).

N images, C channels, H_l x W_l the map of level l, D boxes, kh x kw points a box, O outputs.

A location (x, y) with distances (l, t, r, b) to its box's sides has, by equations 3.2 and 3.3, its points at
x - l + (l + r)(2i + 1) / 2kw and y - t + (t + b)(2j + 1) / 2kh: they depend on the box alone. So the operator takes
boxes, and is RoIAlign with half-pixel correction and one sample a bin. In cells of a map with stride s, whose cell
0 has its centre at s / 2, a pixel coordinate p is p / s - 0.5.
"""

from collections.abc import Sequence

import torch
from torch.nn import functional as F

__all__ = ["roi_sample", "roi_pred", "roi_pred_dense", "location_boxes"]

_BORDERS = ("clamp", "zeros")
# Samples of one chunk of the dense form, in bytes.
_CHUNK_BYTES = 1 << 26


def roi_sample(
    features: Sequence[torch.Tensor],
    boxes: torch.Tensor,
    image: torch.Tensor,
    level: torch.Tensor,
    *,
    strides: Sequence[float],
    size: tuple[int, int],
    border: str = "clamp",
) -> torch.Tensor:
    """Sample each box's level bilinearly at the centres of the kh x kw parts of the box (equations 3.2, 3.3, 3.5).

    Gradients flow to the features and, where they require them, to the boxes.

    Args:
        features: one (N, C, H_l, W_l) map per level.
        boxes: (D, 4), absolute (x0, y0, x1, y1) in pixels; may leave the image. Points that are not finite give zeros.
        image: (D,) int64, the image of each box, in [0, N).
        level: (D,) int64, the map of each box, an index into ``features``.
        strides: of the maps, in pixels.
        size: (kh, kw).
        border: "clamp", the border's values up to one cell outside the map and zeros further out, as RoIAlign;
            "zeros", zeros outside, faded in over one cell, as deformable convolution.

    Returns:
        (D, C, kh, kw), of the features' type.
    """
    samples = _reference(list(features), boxes, image, level, list(strides), tuple(size), border)
    return samples.permute(0, 3, 1, 2)


def roi_pred(
    features: Sequence[torch.Tensor],
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    boxes: torch.Tensor,
    image: torch.Tensor,
    level: torch.Tensor,
    *,
    strides: Sequence[float],
    border: str = "clamp",
) -> torch.Tensor:
    """RoIPred at a list of boxes: samples, then one matrix product (equation 3.1, where it is needed).

    Args:
        weight: (O, C, kh, kw).
        bias: (O,) or None.
        features, boxes, image, level, strides, border: see :func:`roi_sample`.

    Returns:
        (D, O).
    """
    samples = roi_sample(features, boxes, image, level, strides=strides, size=weight.shape[-2:], border=border)
    return F.linear(samples.flatten(1), weight.flatten(1), bias)


def location_boxes(ltrb: torch.Tensor, stride: float) -> torch.Tensor:
    """The boxes (N, H, W, 4) in pixels of all locations of a map, from their distances (N, 4, H, W) in pixels.

    Location (x, y) lies at (x + 0.5) stride.
    """
    h, w = ltrb.shape[-2:]
    y = (torch.arange(h, device=ltrb.device, dtype=ltrb.dtype) + 0.5) * stride
    x = (torch.arange(w, device=ltrb.device, dtype=ltrb.dtype) + 0.5) * stride
    left, top, right, bottom = ltrb.unbind(1)  # (N, H, W) each
    return torch.stack([x - left, y[:, None] - top, x + right, y[:, None] + bottom], dim=-1)  # (N, H, W, 4)


def roi_pred_dense(
    feature: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    ltrb: torch.Tensor,
    *,
    stride: float,
    feature_stride: float,
    border: str = "clamp",
    chunk: int | None = None,
) -> torch.Tensor:
    """RoIPred at every location (equations 3.1 and 3.5), by chunks: neither offsets nor all samples are ever stored.

    Args:
        feature: (N, C, H', W').
        weight: (O, C, kh, kw).
        bias: (O,) or None.
        ltrb: (N, 4, H, W) distances from each location to the sides of its box, in pixels.
        stride: of the locations, in pixels.
        feature_stride: of the feature; lower than ``stride`` for lower-level sampling (equation 3.5).
        border: see :func:`roi_sample`.
        chunk: locations sampled at a time; None for as many as fill 64 MiB.

    Returns:
        (N, O, H, W).
    """
    n, _, h, w = ltrb.shape
    boxes = location_boxes(ltrb, stride).flatten(0, 2)  # (N * H * W, 4)
    image = torch.arange(n, device=boxes.device).repeat_interleave(h * w)
    level = torch.zeros_like(image)
    parts = []
    step = chunk or max(1, _CHUNK_BYTES // (weight[0].numel() * feature.element_size()))
    for i in range(0, max(len(boxes), 1), step):
        part = slice(i, i + step)
        parts.append(
            roi_pred(
                [feature], weight, bias, boxes[part], image[part], level[part], strides=[feature_stride], border=border
            )
        )
    return torch.cat(parts).unflatten(0, (n, h, w)).permute(0, 3, 1, 2)  # (N, O, H, W)


def _reference(
    features: list[torch.Tensor],
    boxes: torch.Tensor,
    image: torch.Tensor,
    level: torch.Tensor,
    strides: list[float],
    size: tuple[int, int],
    border: str,
) -> torch.Tensor:
    """What :func:`roi_sample` is to compute: (D, kh, kw, C). Coordinates and sums in float32, or float64 if given."""
    kh, kw = size
    kind = torch.float64 if features[0].dtype == torch.float64 else torch.float32
    heights, widths = [x.shape[-2] for x in features], [x.shape[-1] for x in features]
    area = [h * w for h, w in zip(heights, widths)]
    starts = [sum(area[:i]) for i in range(len(area))]
    table = torch.tensor([heights, widths, starts], device=level.device)[:, level]  # (3, D)
    height, width, start = table[:, :, None, None]  # (D, 1, 1) each
    scale = (1 / torch.tensor(strides, device=level.device, dtype=kind))[level]

    low, high = (boxes.to(kind) * scale[:, None] - 0.5).split(2, dim=1)  # (D, 2) each: x, y
    step = (high - low) / torch.tensor([kw, kh], device=boxes.device, dtype=kind)

    def centres(axis: int, parts: int) -> torch.Tensor:
        i = torch.arange(parts, device=boxes.device, dtype=kind) + 0.5
        return low[:, axis, None] + i * step[:, axis, None]  # (D, parts)

    rows = _neighbours(centres(1, kh)[:, :, None], height, border)  # (D, kh, 1) each
    columns = _neighbours(centres(0, kw)[:, None, :], width, border)  # (D, 1, kw) each
    # All levels of an image end to end, a row of C values for each cell.
    cells = torch.cat([x.permute(0, 2, 3, 1).flatten(1, 2) for x in features], dim=1).flatten(0, 1)  # (N * S, C)
    base = image[:, None, None] * sum(area) + start
    samples = 0.0
    for y, wy in rows:
        for x, wx in columns:
            index = (base + y * width + x).flatten()  # (D * kh * kw,)
            samples = samples + cells[index].to(kind) * (wy * wx).reshape(-1, 1)  # (D * kh * kw, C)
    return samples.to(features[0].dtype).reshape(-1, kh, kw, cells.shape[1])


def _neighbours(p: torch.Tensor, size: torch.Tensor, border: str) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """The two cells next to coordinate ``p`` among ``size`` in a row and their weights; see csrc/bilinear.h."""
    inside = (p >= -1) & (p <= size) if border == "clamp" else (p > -1) & (p < size)
    inside = inside & (size > 0)
    p = torch.where(inside, p, 0)  # NaN goes here
    if border == "clamp":
        p = torch.minimum(p.clamp(min=0), (size - 1).to(p.dtype))
    low = p.detach().floor()
    i = low.long()
    high_weight = torch.where(i + 1 < size, p - low, 0)
    low_weight = 1 - high_weight if border == "clamp" else torch.where(i >= 0, 1 - (p - low), 0)
    zero = torch.zeros_like(p)
    return [
        (i.clamp(min=0), torch.where(inside, low_weight, zero)),
        (torch.minimum(i + 1, size - 1).clamp(min=0), torch.where(inside, high_weight, zero)),
    ]

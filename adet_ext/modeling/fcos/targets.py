"""Which location learns which object (FCOS; thesis 3.3.2 for the sizes of interest).

N images, L locations over all levels (level by level, each row by row), G the most objects of an image.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch

from ...d2.structures import Instances

__all__ = ["Locations", "Targets", "all_locations", "assign_targets", "centerness_targets"]


class Locations(NamedTuple):
    """The places predictions are made at."""

    xy: torch.Tensor  # (L, 2) pixels
    level: torch.Tensor  # (L,) int64
    stride: torch.Tensor  # (L,) pixels


class Targets(NamedTuple):
    """Assignment of every location of every image."""

    labels: torch.Tensor  # (N, L) int64 class, or the number of classes for background
    objects: torch.Tensor  # (N, L) int64 index of the object, counted through the batch; -1 for background
    ltrb: torch.Tensor  # (N, L, 4) distances to the object's sides in pixels; anything for background


def all_locations(sizes: Sequence[tuple[int, int]], strides: Sequence[int], device: torch.device) -> Locations:
    """Centres of the stride x stride cells of each level: x = (column + 1/2) stride, halves rounded down."""
    xy, level = [], []
    for i, ((h, w), stride) in enumerate(zip(sizes, strides)):
        xs = torch.arange(w, device=device, dtype=torch.float32) * stride + stride // 2
        ys = torch.arange(h, device=device, dtype=torch.float32) * stride + stride // 2
        xy.append(torch.stack([xs.repeat(h), ys.repeat_interleave(w)], dim=1))  # (H W, 2)
        level.append(torch.full((h * w,), i, device=device))
    level = torch.cat(level)
    return Locations(torch.cat(xy), level, torch.tensor(strides, dtype=torch.float32, device=device)[level])


def assign_targets(
    locations: Locations,
    gt_instances: Sequence[Instances],
    *,
    num_classes: int,
    sizes_of_interest: Sequence[float],
    center_sampling: bool = True,
    radius: float = 1.5,
) -> Targets:
    """Assign objects to locations, for all images and locations at once.

    A location is positive for an object if it lies strictly inside the part of its box within ``radius`` strides of
    the box's centre (or, without centre sampling, inside the box), and the largest of its four distances lies in the
    range of the location's level, both ends included. Of several objects the one of least box area wins.

    Args:
        gt_instances: with ``gt_boxes`` (absolute XYXY pixels) and ``gt_classes``, one per image; may be empty.
        sizes_of_interest: upper ends of the ranges of all levels but the last, in pixels.
    """
    device = locations.xy.device
    counts = [len(x) for x in gt_instances]
    num_images, most = len(counts), max(counts)
    if most == 0:
        shape = (num_images, len(locations.level))
        background = torch.full(shape, num_classes, dtype=torch.int64, device=device)
        return Targets(background, torch.full_like(background, -1), torch.zeros(*shape, 4, device=device))

    boxes = torch.zeros(num_images, most, 4, device=device)
    classes = torch.full((num_images, most), num_classes, dtype=torch.int64, device=device)
    present = torch.zeros(num_images, most, dtype=torch.bool, device=device)
    for i, (count, instances) in enumerate(zip(counts, gt_instances)):
        boxes[i, :count] = instances.gt_boxes.tensor
        classes[i, :count] = instances.gt_classes
        present[i, :count] = True

    x, y = (locations.xy[None, :, i, None] for i in range(2))  # (1, L, 1)
    x0, y0, x1, y1 = (boxes[:, None, :, i] for i in range(4))  # (N, 1, G)
    left, top, right, bottom = x - x0, y - y0, x1 - x, y1 - y  # (N, L, G)
    if center_sampling:
        reach = (locations.stride * radius)[None, :, None]
        cx, cy = (x0 + x1) * 0.5, (y0 + y1) * 0.5
        inside = (
            (x > torch.maximum(cx - reach, x0))
            & (x < torch.minimum(cx + reach, x1))
            & (y > torch.maximum(cy - reach, y0))
            & (y < torch.minimum(cy + reach, y1))
        )
    else:
        inside = (left > 0) & (top > 0) & (right > 0) & (bottom > 0)

    inf = float("inf")
    lower = torch.tensor([-1.0, *sizes_of_interest], device=device)[locations.level][None, :, None]
    upper = torch.tensor([*map(float, sizes_of_interest), inf], device=device)[locations.level][None, :, None]
    farthest = torch.maximum(torch.maximum(left, right), torch.maximum(top, bottom))
    inside &= (farthest >= lower) & (farthest <= upper) & present[:, None]

    area = ((x1 - x0) * (y1 - y0)).expand_as(inside).masked_fill(~inside, inf)
    least, chosen = area.min(dim=2)  # (N, L)
    positive = least < inf
    labels = classes.gather(1, chosen).masked_fill(~positive, num_classes)
    first = torch.tensor([0, *counts[:-1]], device=device).cumsum(0)
    objects = (chosen + first[:, None]).masked_fill(~positive, -1)
    ltrb = torch.stack([d.gather(2, chosen[..., None])[..., 0] for d in (left, top, right, bottom)], dim=2)
    return Targets(labels, objects, ltrb)


def centerness_targets(ltrb: torch.Tensor) -> torch.Tensor:
    """sqrt(min(l, r) / max(l, r) * min(t, b) / max(t, b)), in [0, 1]: (..., 4) -> (...)."""
    horizontal, vertical = ltrb[..., 0::2], ltrb[..., 1::2]
    ratio = (horizontal.amin(-1) / horizontal.amax(-1)) * (vertical.amin(-1) / vertical.amax(-1))
    return ratio.sqrt()

"""Assign objects to locations (FCOS; thesis 3.3.2 for the sizes of interest).

N images, L locations over all levels (level by level, each row by row), G the largest number of objects of an image.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import torch

from ...d2.structures import Instances
from ...layers.tables import can_keep, number_table, stream_of

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
    """Return the centers of the stride x stride cells of each level: x = (column + 1/2) stride, halves rounded down.

    The tables of the last pyramids are kept, as making one takes about 50 kernels; do not change them in place.
    """
    if not can_keep((length for size in sizes for length in size), device):
        return _make_locations(sizes, strides, device)
    return _kept_locations(tuple(map(tuple, sizes)), tuple(strides), device, stream_of(device))


@functools.lru_cache(maxsize=32)
def _kept_locations(sizes, strides, device: torch.device, stream: int) -> Locations:
    with torch.inference_mode(False):  # training may not read what inference mode makes
        return _make_locations(sizes, strides, device)


def _make_locations(sizes: Sequence[tuple[int, int]], strides: Sequence[int], device: torch.device) -> Locations:
    """Make the tables on the device: copying one from the host would make the host wait."""
    xy, level, cell = [], [], []
    for i, ((h, w), stride) in enumerate(zip(sizes, strides)):
        xs = torch.arange(w, device=device, dtype=torch.float32) * stride + stride // 2
        ys = torch.arange(h, device=device, dtype=torch.float32) * stride + stride // 2
        # Not repeat_interleave, whose translation to ONNX is wrong where w may vary.
        xy.append(torch.stack([xs.repeat(h), ys[:, None].expand(h, w).flatten()], dim=1))  # (H_l W_l, 2)
        level.append(torch.full((h * w,), i, device=device))
        cell.append(torch.full((h * w,), float(stride), dtype=torch.float32, device=device))
    return Locations(torch.cat(xy), torch.cat(level), torch.cat(cell))


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

    A location is positive for an object if it is strictly inside the part of its box within ``radius`` strides of the
    box's center (or, without center sampling, inside the box), and the largest of its four distances is in the range of
    the location's level, both ends included. Of several objects the one with the smallest box wins.

    Args:
        gt_instances: with ``gt_boxes`` (absolute XYXY pixels) and ``gt_classes``, one per image; may be empty.
        sizes_of_interest: upper ends of the ranges of all levels but the last, in pixels.
    """
    device = locations.xy.device
    counts = [len(x) for x in gt_instances]
    num_images, most = len(counts), max(counts)
    if most == 0:
        shape = (num_images, locations.level.shape[0])
        background = torch.full(shape, num_classes, dtype=torch.int64, device=device)
        return Targets(background, torch.full_like(background, -1), torch.zeros(*shape, 4, device=device))

    boxes, classes, present = _pad_objects(gt_instances, most, num_classes, device)
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
    ends = list(map(float, sizes_of_interest))
    ranges = number_table([[-1.0, *ends], [*ends, inf]], device, torch.float32)  # (2, levels)
    lower, upper = ranges[:, None, locations.level, None]  # (1, L, 1) each
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


def _pad_objects(
    gt_instances: Sequence[Instances], most: int, num_classes: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return boxes (N, G, 4) and classes (N, G) of all objects, and (N, G) bool, which of them are not padding."""
    shape = (len(gt_instances), most)
    boxes = torch.zeros(*shape, 4, device=device)
    classes = torch.full(shape, num_classes, dtype=torch.int64, device=device)
    present = torch.zeros(shape, dtype=torch.bool, device=device)
    for i, instances in enumerate(gt_instances):
        count = len(instances)
        boxes[i, :count] = instances.gt_boxes.tensor
        classes[i, :count] = instances.gt_classes
        present[i, :count] = True
    return boxes, classes, present


def centerness_targets(ltrb: torch.Tensor) -> torch.Tensor:
    """Return sqrt(min(l, r) / max(l, r) * min(t, b) / max(t, b)), in [0, 1]: (..., 4) -> (...)."""
    horizontal, vertical = ltrb[..., 0::2], ltrb[..., 1::2]
    ratio = (horizontal.amin(-1) / horizontal.amax(-1)) * (vertical.amin(-1) / vertical.amax(-1))
    return ratio.sqrt()

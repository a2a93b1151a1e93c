"""Ground-truth masks in the frame of the box that samples the features.

G objects of a batch, D crops, M the side of a mask, H x W pixels of an image.
"""

from collections.abc import Sequence

import torch
from torchvision.ops import roi_align

from ...d2.structures import BitMasks, Instances

__all__ = ["crop_objects", "crop_masks", "gather_boxes"]


def gather_boxes(gt_instances: Sequence[Instances], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """All objects' boxes (G, 4) and images (G,), in the order of a batch's object numbers."""
    counts = torch.tensor([len(x) for x in gt_instances], device=device)
    image = torch.arange(len(gt_instances), device=device).repeat_interleave(counts)
    return torch.cat([x.gt_boxes.tensor for x in gt_instances]).to(device), image


def crop_objects(gt_instances: Sequence[Instances], size: int, like: torch.Tensor) -> torch.Tensor:
    """Each object's mask within its own box: (G, M, M) of 0 and 1, as ``like`` in type and device."""
    crops = [x.gt_masks.crop_and_resize(x.gt_boxes.tensor, size) for x in gt_instances if len(x)]
    return torch.cat(crops).to(like) if crops else like.new_zeros(0, size, size)


def crop_masks(
    gt_instances: Sequence[Instances], boxes: torch.Tensor, objects: torch.Tensor, size: int
) -> torch.Tensor:
    """Masks of objects, each within a given box.

    Args:
        boxes: (D, 4) absolute pixels.
        objects: (D,) int64, whose mask, in [0, G), counted through the batch.
        size: M.

    Returns:
        (D, M, M) of 0 and 1, of the boxes' type.
    """
    crops = boxes.new_zeros(len(boxes), size, size)
    first = 0
    for instances in gt_instances:
        count = len(instances)
        mine = ((objects >= first) & (objects < first + count)).nonzero()[:, 0]
        if len(mine):
            crops[mine] = _crop(instances.gt_masks, boxes[mine], objects[mine] - first, size).to(crops)
        first += count
    return crops


def _crop(masks, boxes: torch.Tensor, index: torch.Tensor, size: int) -> torch.Tensor:
    if not isinstance(masks, BitMasks):  # polygons are drawn into each crop anew
        return masks[index].crop_and_resize(boxes, size)
    # The structure's own method wants one box for each mask, and would have a copy of a mask for each of its crops.
    rois = torch.cat([index[:, None].to(boxes.dtype), boxes], dim=1)  # (D, 5)
    return roi_align(masks.tensor[:, None].to(boxes.dtype), rois, size, 1.0, 0, True)[:, 0] >= 0.5

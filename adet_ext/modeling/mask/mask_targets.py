"""Make targets: ground-truth masks in the frame of the box that samples the features, and labels of pixels.

G objects of a batch, P positive locations, D crops, M the side of a mask, H x W pixels of an image.
"""

from collections.abc import Sequence

import torch
from torch.nn import functional as F
from torchvision.ops import roi_align

from ...d2.structures import BitMasks, ImageList, Instances
from ...errors import UserError
from ...layers.blend_reference import near_boxes
from ..fcos.losses import Positives

__all__ = ["crop_objects", "crop_masks", "gather_boxes", "located_mask_loss", "stuff_labels", "thing_labels"]


def gather_boxes(gt_instances: Sequence[Instances], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Return all objects' boxes (G, 4) and images (G,), in the order of a batch's object numbers."""
    counts = torch.tensor([len(x) for x in gt_instances], device=device)
    image = torch.arange(len(gt_instances), device=device).repeat_interleave(counts)
    return torch.cat([x.gt_boxes.tensor for x in gt_instances]).to(device), image


def crop_objects(gt_instances: Sequence[Instances], size: int, like: torch.Tensor) -> torch.Tensor:
    """Return each object's mask within its own box: (G, M, M) of 0 and 1, with the type and device of ``like``."""
    crops = [x.gt_masks.crop_and_resize(x.gt_boxes.tensor, size) for x in gt_instances if len(x)]
    return torch.cat(crops).to(like) if crops else like.new_zeros(0, size, size)


def located_mask_loss(logits: torch.Tensor, gt_instances: Sequence[Instances], positives: Positives) -> torch.Tensor:
    """Return the cross-entropy of masks at positive locations, weighted by center-ness as in box regression.

    Args:
        logits: (P, M, M), each within the box of its location's object.
    """
    targets = crop_objects(gt_instances, logits.shape[-1], logits)[positives.objects]  # (P, M, M)
    per_pixel = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    return (per_pixel.mean(dim=(1, 2)) * positives.weight).sum() / positives.normalizer


def thing_labels(batched_inputs: Sequence[dict], device: torch.device, divisibility: int) -> torch.Tensor | None:
    """Return the labels of things in the padded images, (N, H, W) int64: 0 nothing, else class + 1.

    They are the inputs' ``basis_sem``. Detectron2's own mapper does not make these; then the instance masks are drawn
    in their order, without crowds, which it drops too. None if an input has neither.
    """
    labels = [x["basis_sem"] if "basis_sem" in x else _drawn(x["instances"]) for x in batched_inputs]
    if any(x is None for x in labels):
        return None
    return ImageList.from_tensors([x.to(device) for x in labels], divisibility, 0).tensor


def _drawn(instances: Instances) -> torch.Tensor | None:
    """Draw an image's instances, later ones over earlier ones: (H, W) int64; None without masks."""
    labels = torch.zeros(instances.image_size, dtype=torch.int64)
    if not len(instances):
        return labels
    if not instances.has("gt_masks"):
        return None
    masks, classes = instances.gt_masks, instances.gt_classes.tolist()
    if not isinstance(masks, BitMasks):
        masks = BitMasks.from_polygon_masks(masks, *instances.image_size)
    for mask, index in zip(masks.tensor.cpu(), classes):
        labels[mask] = index + 1
    return labels


def stuff_labels(
    batched_inputs: Sequence[dict], device: torch.device, num_classes: int, ignore_value: int
) -> list[torch.Tensor]:
    """Return (H, W) int64 for each image: 0 for things, stuff classes from 1 on, or ``ignore_value``.

    Args:
        num_classes: of the semantic head, things counted as one. Labels that lie on the CPU, as a data loader's do,
            are compared with it; for others the host would have to wait.

    Raises:
        ValueError: an input has none.
        UserError: a label is no class.
    """
    for x in batched_inputs:
        if "sem_seg" not in x:
            raise ValueError(
                "an input must have semantic labels ('sem_seg') to train panoptic segmentation; got "
                f"{x.get('file_name', 'one')} without. Train on a panoptic data set such as "
                "coco_2017_train_panoptic_separated ('python -m adet_ext data prepare-panoptic' makes its labels), or "
                "set MODEL.PANOPTIC_FPN.COMBINE.ENABLED False"
            )
        if x["sem_seg"].device.type == "cpu":
            _check_labels(x, num_classes, ignore_value)
    return [x["sem_seg"].to(device) for x in batched_inputs]


def _check_labels(x: dict, num_classes: int, ignore_value: int) -> None:
    labels = x["sem_seg"]
    wrong = ((labels < 0) | (labels >= num_classes)) & (labels != ignore_value)
    if wrong.any():
        raise UserError(
            f"{x.get('file_name', 'an input')}: the semantic labels must be 0 to {num_classes - 1}, or {ignore_value} "
            f"for no class; got {int(labels[wrong][0])}. Correct the label map, or set MODEL.SEM_SEG_HEAD.NUM_CLASSES "
            "and IGNORE_VALUE"
        )


def crop_masks(
    gt_instances: Sequence[Instances], boxes: torch.Tensor, objects: torch.Tensor, size: int
) -> torch.Tensor:
    """Return masks of objects, each within a given box.

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
    if not isinstance(masks, BitMasks):  # polygons are drawn into each crop
        return masks[index].crop_and_resize(boxes, size)
    # The structure's own method needs one box per mask, so a copy of a mask for each of its crops.
    boxes = near_boxes(boxes, *masks.image_size)
    rois = torch.cat([index[:, None].to(boxes.dtype), boxes], dim=1)  # (D, 5)
    return roi_align(masks.tensor[:, None].to(boxes.dtype), rois, size, 1.0, 0, True)[:, 0] >= 0.5

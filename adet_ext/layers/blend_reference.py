"""Blend step by step in plain PyTorch: crop, then merge (thesis 4.3.2, equations 4.1 to 4.4).

This specifies blend_masks and blend_factored, and replaces them if they are not built. Letters as in
:mod:`adet_ext.layers`.
"""

from collections.abc import Sequence

import torch
from torch.nn import functional as F
from torchvision.ops import roi_align, roi_pool

from .checks import (
    check_boxes,
    check_device,
    check_floating,
    check_number,
    check_option,
    check_range,
    check_shape,
    dtype_name,
    shape_text,
)

__all__ = ["assemble", "crop_bases", "merge_crops", "near_boxes", "one_hot_attentions"]

_REACH = 1024  # cells


def check_crop(bases, boxes, image, size, scale, sampling_ratio=1, pooler_type="ROIAlignV2") -> None:
    """Check the arguments of all functions that crop: (N, K, H, W) bases, (D, 4) boxes, (D,) images."""
    check_floating(bases, "bases")
    check_shape(bases, "bases", ("N", "K", "H", "W"))
    check_boxes(boxes, bases, exact=False)
    check_shape(image, "image", (boxes.shape[0],))
    if image.dtype.is_floating_point or image.dtype.is_complex or image.dtype == torch.bool:
        raise TypeError(f"image must be int64; got {dtype_name(image.dtype)}")
    check_device(image, "image", bases)
    check_range(size, "size", 1, 4096)
    check_number(scale, "scale")
    check_range(sampling_ratio, "sampling_ratio", 0, 64)
    check_option(pooler_type, "pooler_type", ("ROIAlignV2", "ROIAlign", "ROIPool"))
    if bases.shape[1] == 0 or (bases.numel() == 0 and boxes.shape[0] > 0):
        raise ValueError(f"bases must have cells to crop; got {shape_text(bases.shape)}")


def check_factor(t: torch.Tensor, name: str, bases: torch.Tensor, sides: Sequence[int | str]) -> None:
    """Check that ``t`` is a floating-point tensor of that shape on the device of the bases."""
    check_floating(t, name)
    check_shape(t, name, sides)
    check_device(t, name, bases)


def crop_bases(
    bases: torch.Tensor,
    boxes: torch.Tensor,
    image: torch.Tensor,
    *,
    size: int,
    scale: float,
    sampling_ratio: int = 1,
    pooler_type: str = "ROIAlignV2",
) -> torch.Tensor:
    """Crop the bases by each box and bring the crop to ``size`` x ``size`` (equation 4.1).

    Args:
        bases: (N, K, H, W).
        boxes: (D, 4), absolute (x0, y0, x1, y1) in pixels of the network's input; may leave the image. A box that is
            not finite crops zeros. With ``sampling_ratio`` 0 and with ROIPool, boxes are clipped by :func:`near_boxes`.
        image: (D,) the image of each box.
        scale: 1 / stride of the bases.
        sampling_ratio: samples a bin and direction, for the RoIAlign kinds; 0: one a cell.
        pooler_type: "ROIAlignV2", "ROIAlign" (no half-pixel correction) or "ROIPool" (nearest).

    Returns:
        (D, K, size, size).

    Raises:
        RuntimeError: an image is out of range.
    """
    check_crop(bases, boxes, image, size, scale, sampling_ratio, pooler_type)
    image = torch.arange(bases.shape[0], device=image.device).gather(0, image.long())  # RoIAlign does not check it
    dtype = bases.dtype
    if dtype == torch.bfloat16:  # torchvision does not support it
        bases = bases.float()
    finite = boxes.isfinite().all(dim=1)[:, None, None, None]  # torchvision does not check this
    if sampling_ratio == 0 or pooler_type == "ROIPool":
        boxes = near_boxes(boxes, *bases.shape[-2:], scale)
    rois = torch.cat([image[:, None].to(boxes.dtype), boxes], dim=1).to(bases.dtype).nan_to_num(0, 0, 0)  # (D, 5)
    if pooler_type == "ROIPool":
        crops = roi_pool(bases, rois, size, scale)
    else:
        crops = roi_align(bases, rois, size, scale, sampling_ratio, aligned=pooler_type == "ROIAlignV2")
    return crops.masked_fill(~finite, 0).to(dtype)


def near_boxes(boxes: torch.Tensor, height: int, width: int, scale: float = 1.0) -> torch.Tensor:
    """Clip boxes to 1024 cells outside a map of ``height`` x ``width`` cells.

    RoIAlign with one sample a cell keeps a table of all samples of a box, which for 100,000 cells a side takes all
    memory. ROIPool counts cells in 32 bits.

    Args:
        boxes: (D, 4), (x0, y0, x1, y1). NaN is kept.
        scale: cells of the map in one unit of the boxes.
    """
    x, y = boxes[:, 0::2], boxes[:, 1::2]  # (D, 2) each
    most = torch.finfo(boxes.dtype).max
    low, right, bottom = (min(cells / scale, most) for cells in (_REACH, width + _REACH, height + _REACH))
    x, y = x.clamp(-low, right), y.clamp(-low, bottom)
    return torch.stack([x, y], dim=2).flatten(1)  # (D, 4): x0, y0, x1, y1


def merge_crops(crops: torch.Tensor, attentions: torch.Tensor, *, top_interp: str = "bilinear") -> torch.Tensor:
    """Weight the cropped bases by the instances' attentions and add them up (equations 4.2 to 4.4).

    Attentions of several bases are normalized by a softmax over the bases. For a single basis, the mask is the product
    of the sigmoids of basis and attention (section 4.4.1, "Number of bases"). Its logit is returned, so that the
    sigmoid of the result is the mask in all cases.

    Args:
        crops: (D, K, R, R).
        attentions: (D, K, M, M), logits.
        top_interp: "bilinear" or "nearest", for M -> R.

    Returns:
        (D, R, R) mask logits.
    """
    if attentions.shape[0] == 0:  # PyTorch's nearest interpolation of empty meta tensors raises
        return crops.sum(dim=1) + attentions.sum()
    resized = F.interpolate(attentions, crops.shape[-2:], mode=top_interp)  # (D, K, R, R)
    if crops.shape[1] == 1:
        a, b = resized[:, 0], crops[:, 0]
        # log(p / (1 - p)) of p = sigmoid(a) sigmoid(b), stable at both ends.
        return -torch.logsumexp(torch.stack([-a, -b, -a - b]), dim=0)
    return (resized.softmax(dim=1) * crops).sum(dim=1)


def one_hot_attentions(num_instances: int, side: int, like: torch.Tensor) -> torch.Tensor:
    """Return the attentions of the assembler (FCIS): (D, side^2, side, side).

    They are weights, not logits. In cell (i, j), basis ``i * side + j`` has weight one and the others zero.
    """
    eye = torch.eye(side * side, dtype=like.dtype, device=like.device)
    return eye.view(1, side * side, side, side).expand(num_instances, -1, -1, -1)


def assemble(crops: torch.Tensor, side: int) -> torch.Tensor:
    """Assemble position-sensitive masks (FCIS): each of side x side parts of a mask comes from its own basis.

    This is blending with fixed one-hot attentions and nearest interpolation. (D, side^2, R, R) -> (D, R, R).
    """
    if crops.shape[0] == 0:
        return crops.sum(dim=1)
    weights = one_hot_attentions(crops.shape[0], side, crops)
    return (F.interpolate(weights, crops.shape[-2:], mode="nearest") * crops).sum(dim=1)

"""Paste masks from their boxes into the image: D masks of side R, an image of H x W pixels."""

import numpy as np
import torch
from torch.nn import functional as F

from .checks import (
    check_boxes,
    check_device,
    check_floating,
    check_like,
    check_number,
    check_range,
    check_sequence,
    check_shape,
    check_type,
)
from .extension import native_operators, serves
from .floats import sum_dtype

__all__ = ["paste_masks"]


def paste_masks(
    masks: torch.Tensor, boxes: torch.Tensor, image_size: tuple[int, int], *, threshold: float = 0.5
) -> torch.Tensor:
    """Interpolate each mask over its box and cut it at ``threshold``.

    Interpolation is bilinear, with pixel centers at halves and zeros beyond the mask. The result is that of
    Detectron2's ``paste_masks_in_image``, except for pixels whose value differs from the threshold by rounding only.
    Pixels outside the boxes are not computed, and no floating-point image is made.

    Args:
        masks: (D, R, R), probabilities, floating.
        boxes: (D, 4), (x0, y0, x1, y1) in pixels of the image. The mask of a box that is not finite or has no area
            is empty.
        image_size: (H, W).
        threshold: above 0.

    Returns:
        (D, H, W), boolean. There are no gradients.
    """
    check_floating(masks, "masks")
    check_shape(masks, "masks", ("D", "R", "R"))
    check_boxes(boxes, masks, exact=False)
    check_shape(boxes, "boxes", (masks.shape[0], 4))
    check_number(threshold, "threshold", finite=False)
    check_sequence(image_size, "image_size")
    if len(image_size) != 2:
        raise ValueError(f"image_size must be (H, W); got {image_size}")
    try:
        height, width = (int(length) for length in image_size)
    except (TypeError, ValueError, OverflowError) as error:
        raise TypeError(f"image_size must be two integers; got {image_size}") from error
    check_range(height, "the height in image_size", 0, 2**31 - 1)
    check_range(width, "the width in image_size", 0, 2**31 - 1)
    shape = (masks.shape[0], height, width)
    if masks.device.type == "cpu":
        # The system provides the memory of numpy's zeros when it is written to, and most of it never is.
        try:
            out = torch.from_numpy(np.zeros(shape, dtype=bool))
        except (MemoryError, ValueError) as error:
            raise ValueError(f"image_size must be of masks that fit into memory; got {image_size}") from error
    else:
        out = torch.zeros(shape, dtype=torch.bool, device=masks.device)
    wide = sum_dtype(masks.dtype)
    masks, boxes = masks.detach().to(wide), boxes.detach().to(wide)
    if serves("paste_masks", masks):
        torch.ops.adet_ext.paste_masks(out, masks, boxes, threshold)
    else:
        _paste(out, masks, boxes, threshold)
    return out


if "paste_masks" in native_operators():

    @torch.library.register_fake("adet_ext::paste_masks")
    def _(out, masks, boxes, threshold):
        check_shape(out, "out", ("D", "H", "W"))
        check_type(out, "out", torch.bool)
        if not out.is_contiguous():
            raise ValueError("out must be contiguous")
        check_shape(masks, "masks", (out.shape[0], "R", "R"))
        check_type(masks, "masks", sum_dtype(masks.dtype))
        check_device(masks, "masks", out)
        check_shape(boxes, "boxes", (out.shape[0], 4))
        check_like(boxes, "boxes", masks)
        check_number(threshold, "threshold", finite=False)


def _paste(out: torch.Tensor, masks: torch.Tensor, boxes: torch.Tensor, threshold: float) -> None:
    """Paste the masks one by one in plain PyTorch. This is the specification."""
    _, height, width = out.shape
    size = torch.tensor([width, height], device=boxes.device)
    # Beyond its box, a mask fades out over half a cell of the mask.
    margin = ((boxes[:, 2:] - boxes[:, :2]) / (2 * max(masks.shape[-1], 1))).ceil() + 1
    starts = (boxes[:, :2] - margin).floor().clamp(min=0)
    ends = torch.minimum((boxes[:, 2:] + margin).ceil(), size)
    good = boxes.isfinite().all(dim=1) & (boxes[:, 2:] > boxes[:, :2]).all(dim=1)
    windows = torch.cat([starts, ends], dim=1)[good].long().tolist()
    columns = torch.arange(width, device=boxes.device, dtype=masks.dtype) + 0.5
    rows = torch.arange(height, device=boxes.device, dtype=masks.dtype) + 0.5
    for i, (left, top, right, bottom) in zip(good.nonzero()[:, 0].tolist(), windows):
        if left >= right or top >= bottom:
            continue
        box = boxes[i]
        x = (columns[left:right] - box[0]) / (box[2] - box[0]) * 2 - 1
        y = (rows[top:bottom] - box[1]) / (box[3] - box[1]) * 2 - 1
        grid = torch.stack(torch.broadcast_tensors(x, y[:, None]), dim=2)  # bottom - top, right - left, 2
        values = F.grid_sample(masks[i][None, None], grid[None], align_corners=False)[0, 0]
        torch.ge(values, threshold, out=out[i, top:bottom, left:right])

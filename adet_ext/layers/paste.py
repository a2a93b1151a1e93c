"""Masks from their boxes into the image.

D instances, R side of a mask, H and W height and width of the image.
"""

import numpy as np
import torch
from torch.nn import functional as F

from .blend_native import has_kernel
from .floats import sum_dtype

__all__ = ["paste_masks", "paste_blended"]


def paste_masks(
    masks: torch.Tensor, boxes: torch.Tensor, image_size: tuple[int, int], *, threshold: float = 0.5
) -> torch.Tensor:
    """Interpolate each mask over its box and cut it at ``threshold``.

    Bilinear, pixel centres at halves, zeros beyond the mask: the result of Detectron2's ``paste_masks_in_image``, up to
    pixels whose value is the threshold but for rounding. Nothing outside the boxes is touched, and no floating-point
    image is made.

    Args:
        masks: (D, R, R), probabilities, floating.
        boxes: (D, 4), (x0, y0, x1, y1) in pixels of the image. A box that is not finite or has no area leaves its mask
            empty.
        image_size: (H, W).
        threshold: above 0.

    Returns:
        (D, H, W), boolean. There are no gradients.
    """
    if masks.dim() != 3 or masks.shape[1] != masks.shape[2]:
        raise ValueError(f"masks are {tuple(masks.shape)}; they take (D, R, R)")
    if boxes.shape != (len(masks), 4):
        raise ValueError(f"boxes are {tuple(boxes.shape)}; they take ({len(masks)}, 4)")
    if not threshold > 0:
        raise ValueError(f"threshold is {threshold}; it takes a number above 0")
    height, width = (int(length) for length in image_size)
    shape = (len(masks), height, width)
    if masks.device.type == "cpu":
        # numpy's zeros are pages that the system hands out when they are written to: most never are.
        out = torch.from_numpy(np.zeros(shape, dtype=bool))
    else:
        out = torch.zeros(shape, dtype=torch.bool, device=masks.device)
    wide = sum_dtype(masks.dtype)
    masks, boxes = masks.detach().to(wide), boxes.detach().to(wide)
    if has_kernel("paste_masks_", masks):
        torch.ops.adet_ext.paste_masks_(out, masks, boxes, threshold)
    else:
        _paste(out, masks, boxes, threshold)
    return out


def paste_blended(
    logits: torch.Tensor, boxes: torch.Tensor, image_size: tuple[int, int], *, threshold: float = 0.5
) -> torch.Tensor:
    """:func:`paste_masks` of the probabilities of (D, R, R) logits, as the blend operators give them."""
    return paste_masks(logits.to(sum_dtype(logits.dtype)).sigmoid(), boxes, image_size, threshold=threshold)


def _paste(out: torch.Tensor, masks: torch.Tensor, boxes: torch.Tensor, threshold: float) -> None:
    """The specification, in plain PyTorch: within one box at a time."""
    _, height, width = out.shape
    size = torch.tensor([width, height], device=boxes.device)
    # A pixel's margin: a mask fades out over half a cell of its own beyond its box.
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

"""Paste masks from box coordinates into the image.

N instances, M the side of a predicted mask, H and W height and width of the image.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..structures.boxes import Boxes


def paste_masks_in_image(
    masks: Tensor, boxes: Boxes | Tensor, image_shape: tuple[int, int], threshold: float = 0.5
) -> Tensor:
    """Interpolate each mask over its box and cut it at ``threshold``.

    ``masks`` (N, M, M) in [0, 1]; ``boxes`` (N, 4) in pixels of the image; ``image_shape`` (H, W). The result
    is (N, H, W), boolean; with a negative ``threshold`` uint8, the values times 255. Floating-point values
    are computed for one box at a time.
    """
    if masks.shape[-1] != masks.shape[-2]:
        raise AssertionError(f"masks must be square; got {tuple(masks.shape[-2:])}")
    if isinstance(boxes, Boxes):
        boxes = boxes.tensor
    if len(boxes) != len(masks):
        raise AssertionError(f"{len(boxes)} boxes for {len(masks)} masks")
    height, width = (int(length) for length in image_shape)
    if len(masks) == 0:
        return masks.new_empty((0, height, width), dtype=torch.uint8)
    binary = threshold >= 0
    shape = (len(masks), height, width)
    if boxes.device.type == "cpu":
        # The system provides the memory of numpy's zeros when it is written to, and most of it never is.
        pasted = torch.from_numpy(np.zeros(shape, dtype=bool if binary else np.uint8))
    else:
        pasted = torch.zeros(shape, dtype=torch.bool if binary else torch.uint8, device=boxes.device)
    if not masks.dtype.is_floating_point:
        masks = masks.float()
    # Beyond its box, a mask fades out over half a pixel of the mask.
    starts, ends = (boxes[:, :2].floor() - 1).clamp(min=0), boxes[:, 2:].ceil() + 1
    ends = torch.stack([ends[:, 0].clamp(max=width), ends[:, 1].clamp(max=height)], dim=1)
    # One copy to the host, instead of one for each box.
    windows = torch.cat([starts, ends], dim=1).int().tolist()
    columns = torch.arange(width, device=boxes.device, dtype=torch.float32) + 0.5
    rows = torch.arange(height, device=boxes.device, dtype=torch.float32) + 0.5
    for mask, box, image, window in zip(masks, boxes, pasted, windows, strict=True):
        left, top, right, bottom = window
        if left >= right or top >= bottom:
            continue
        x = (columns[left:right] - box[0]) / (box[2] - box[0]) * 2 - 1
        y = (rows[top:bottom] - box[1]) / (box[3] - box[1]) * 2 - 1
        grid = torch.stack(torch.broadcast_tensors(x, y[:, None]), dim=2)  # bottom - top, right - left, 2
        values = F.grid_sample(mask[None, None], grid[None].to(mask.dtype), align_corners=False)[0, 0]
        if binary:
            torch.ge(values, threshold, out=image[top:bottom, left:right])
        else:
            image[top:bottom, left:right] = (values * 255).to(torch.uint8)
    return pasted

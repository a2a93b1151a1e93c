"""Resize results from the resolution of the model to the requested one.

N instances, C classes, M the side of a predicted mask, H and W the output height and width.
"""

import torch.nn.functional as F
from torch import Tensor

from ..layers import paste_masks_in_image
from ..structures import Instances


def detector_postprocess(
    results: Instances, output_height: int, output_width: int, mask_threshold: float = 0.5
) -> Instances:
    """Scale detections from ``results.image_size`` to the output size, and drop those without area.

    ``pred_boxes`` (or ``proposal_boxes``) are scaled in place and clipped; ``pred_masks`` (N, 1, M, M) become a
    boolean tensor (N, H, W).
    """
    scale_y = output_height / results.image_size[0]
    scale_x = output_width / results.image_size[1]
    results = Instances((output_height, output_width), **results.get_fields())
    name = "pred_boxes" if results.has("pred_boxes") else "proposal_boxes"
    if not results.has(name):
        raise AssertionError("detections without pred_boxes or proposal_boxes cannot be scaled")
    boxes = results.get(name)
    boxes.scale(scale_x, scale_y)
    boxes.clip(results.image_size)
    results = results[boxes.nonempty().nonzero()[:, 0]]  # numbers, not flags, which the host would wait for by field
    if results.has("pred_masks"):
        results.pred_masks = paste_masks_in_image(
            results.pred_masks[:, 0], results.pred_boxes, (output_height, output_width), mask_threshold
        )
    return results


def sem_seg_postprocess(result: Tensor, img_size: tuple[int, int], output_height: int, output_width: int) -> Tensor:
    """Cut the scores (C, ...) of a padded image to ``img_size`` (height, width), and resize them to (C, H, W)."""
    result = result[None, :, : img_size[0], : img_size[1]]
    return F.interpolate(result, size=(output_height, output_width), mode="bilinear", align_corners=False)[0]

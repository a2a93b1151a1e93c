"""Bring detections from the network's frame to the size asked for; our own operator pastes masks.

D detections, M the side of a predicted mask.
"""

import torch

from ..d2.modeling import detector_postprocess as engine_postprocess
from ..d2.structures import Instances
from ..layers.extension import serves
from ..layers.paste_masks import paste_masks

__all__ = ["detector_postprocess"]

_BY_BOX = "masks_by_box"


def detector_postprocess(results: Instances, output_height: int, output_width: int) -> Instances:
    """Run the engine's ``detector_postprocess``; our operator, if compiled, pastes ``pred_masks`` (D, 1, M, M).

    The engine scales and clips the boxes and drops the empty ones; the masks go through that under another name.
    """
    masks = results.get_fields().get("pred_masks")
    if not isinstance(masks, torch.Tensor) or masks.dim() != 4 or not serves("paste_masks", masks):
        return engine_postprocess(results, output_height, output_width)
    fields = {_BY_BOX if name == "pred_masks" else name: value for name, value in results.get_fields().items()}
    scaled = engine_postprocess(Instances(results.image_size, **fields), output_height, output_width)
    by_box = scaled.get(_BY_BOX)[:, 0]
    scaled.remove(_BY_BOX)
    scaled.pred_masks = paste_masks(by_box, scaled.pred_boxes.tensor, (output_height, output_width))
    return scaled

"""Measure how much detections change when the image moves by some pixels (the purpose of BlurConv, thesis 3.3.2).

An image is placed on a plain canvas (0, 0), (1, 1), ... pixels from a corner. The detections at (0, 0) are matched
with those at every other shift, moved back. A network with strides detects the same only at multiples of its strides;
one that blurs before it subsamples should detect nearly the same everywhere.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torchvision.ops import box_iou

from ..engine.predictor import Predictor, confident, on_cpu

__all__ = ["Consistency", "shift_consistency"]

SAME = 0.5  # minimum IoU of boxes of one object


@dataclass(frozen=True)
class Consistency:
    """Averages over detections, shift by shift; entry 0 is the shift by one pixel.

    Attributes:
        objects: the number of detections at (0, 0).
        found: the share of them that were found: the same class and an IoU of boxes of at least ``SAME``.
        box_iou, mask_iou: of those found; ``mask_iou`` is 0 for models without masks.
        score: mean absolute change of their scores.
    """

    objects: int
    found: tuple[float, ...]
    box_iou: tuple[float, ...]
    mask_iou: tuple[float, ...]
    score: tuple[float, ...]


def shift_consistency(
    predictor: Predictor,
    images: Sequence[np.ndarray],
    *,
    shifts: int = 31,
    threshold: float = 0.5,
    tick: Callable[[], None] = lambda: None,
) -> Consistency:
    """Move each image by 1 to ``shifts`` pixels down and right, and compare the detections with those in place.

    Args:
        predictor: the model; images are resized as its config says, and moved by pixels of the network's input.
        images: BGR uint8 (H, W, 3).
        threshold: minimum score of the detections in place; moved ones need half of it.
        tick: called after each image.
    """
    mean = np.array(predictor.cfg.MODEL.PIXEL_MEAN)
    mean = mean[::-1] if predictor.cfg.INPUT.FORMAT == "RGB" else mean  # the canvas is BGR as well
    sums, objects = np.zeros((4, shifts)), 0
    for image in images:
        image = predictor.resize(image)
        height, width = image.shape[:2]
        canvas = np.empty((height + shifts, width + shifts, 3), np.uint8)
        reference = None
        for shift in range(shifts + 1):
            canvas[:] = mean.round().astype(np.uint8)
            canvas[shift : shift + height, shift : shift + width] = image
            found = on_cpu(predictor.as_it_is(canvas))
            found = confident(found, threshold if reference is None else threshold / 2)["instances"]
            if reference is None:
                reference = found
                objects += len(found)
                continue
            sums[:, shift - 1] += _compare(reference, found, shift)
        tick()
    found = np.maximum(sums[0], 1e-9)
    rows = [tuple(float(value) for value in row) for row in (sums[0] / max(objects, 1), *(sums[1:] / found))]
    return Consistency(objects, *rows)


def _compare(reference, moved, shift: int) -> tuple[float, float, float, float]:
    """Return how many are found, and the sums of their box IoU, mask IoU and change of score."""
    if not len(reference) or not len(moved):
        return 0.0, 0.0, 0.0, 0.0
    overlap = box_iou(reference.pred_boxes.tensor, moved.pred_boxes.tensor - shift)
    overlap = overlap * (reference.pred_classes[:, None] == moved.pred_classes)
    best, place = overlap.max(dim=1)
    one = (best >= SAME).nonzero()[:, 0]
    other = place[one]
    change = (reference.scores[one] - moved.scores[other]).abs().sum()
    masks = torch.tensor(0.0)
    if reference.has("pred_masks") and len(one):
        a = reference.pred_masks[one][:, :-shift, :-shift]
        b = moved.pred_masks[other][:, shift:, shift:]
        either = (a | b).sum(dim=(1, 2)).clamp(min=1)
        masks = ((a & b).sum(dim=(1, 2)) / either).sum()
    return float(len(one)), float(best[one].sum()), float(masks), float(change)

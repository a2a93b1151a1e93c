"""Follow instances from frame to frame by their boxes, for their colors."""

import torch
from torchvision.ops import box_iou

from ..d2.structures import Instances
from .drawing import PALETTE, Color

__all__ = ["ColorTracker"]


class ColorTracker:
    """Gives an instance the color that it had in the last frame, so that videos do not flicker.

    An instance inherits the color of the best-overlapping instance of its class whose box has an IoU of at least
    ``min_iou``; without such a match it gets the next color that no instance of the frame has.
    """

    def __init__(self, min_iou: float = 0.4):
        self.min_iou = min_iou
        self._boxes = torch.zeros(0, 4)
        self._classes = torch.zeros(0, dtype=torch.long)
        self._indices: list[int] = []
        self._next = 0

    def __call__(self, instances: Instances) -> list[Color]:
        """Return a color for every instance of the next frame, and remember the frame."""
        return self.assign(instances.pred_boxes.tensor.cpu().float(), instances.pred_classes.cpu())

    def assign(self, boxes: torch.Tensor, classes: torch.Tensor) -> list[Color]:
        """Return the same for float boxes (D, 4) and int classes (D,)."""
        indices = [-1] * len(boxes)
        overlap = box_iou(boxes, self._boxes) * (classes[:, None] == self._classes[None])
        while overlap.numel() and float(overlap.max()) >= self.min_iou:
            now, before = divmod(int(overlap.argmax()), overlap.shape[1])
            indices[now] = self._indices[before]
            overlap[now], overlap[:, before] = -1, -1
        for position, index in enumerate(indices):
            if index < 0:
                for _ in PALETTE:  # colors repeat if there are more instances than colors
                    index, self._next = self._next, (self._next + 1) % len(PALETTE)
                    if index not in indices:
                        break
                indices[position] = index
        self._boxes, self._classes, self._indices = boxes, classes, indices
        return [PALETTE[index] for index in indices]

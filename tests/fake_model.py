"""A model without weights whose right answer is known: it finds the bright rectangles of a dark image."""

import cv2
import numpy as np
import torch
from torch import nn

from adet_ext.d2.structures import Boxes, Instances


class BlobModel(nn.Module):
    """Every connected bright region is an instance; class 1 where it is wider than high; larger is surer."""

    def __init__(self):
        super().__init__()
        self.batches = []
        self.inference_modes = []

    def forward(self, inputs):
        self.batches.append(len(inputs))
        self.inference_modes.append(torch.is_inference_mode_enabled() and not self.training)
        return [{"instances": self._find(x)} for x in inputs]

    @staticmethod
    def _find(x):
        size = (x["height"], x["width"])
        grey = x["image"].mean(0).numpy().astype(np.uint8)
        grey = cv2.resize(grey, size[::-1], interpolation=cv2.INTER_NEAREST)
        count, labels = cv2.connectedComponents((grey > 127).astype(np.uint8))
        masks = np.stack([labels == k for k in range(1, count)]) if count > 1 else np.zeros((0, *size), dtype=bool)
        boxes = []
        for mask in masks:
            rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            boxes.append([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
        boxes = torch.tensor(boxes, dtype=torch.float).reshape(-1, 4)
        sides = boxes[:, 2:] - boxes[:, :2]
        result = Instances(size)
        result.pred_boxes = Boxes(boxes)
        result.pred_masks = torch.from_numpy(masks)
        result.scores = 0.2 + 0.8 * sides.prod(1) / (size[0] * size[1])
        result.pred_classes = (sides[:, 0] > sides[:, 1]).long()
        return result


def rectangles(height, width, *boxes):
    """A dark BGR image with bright rectangles (x0, y0, x1, y1)."""
    image = np.full((height, width, 3), 30, dtype=np.uint8)
    for x0, y0, x1, y1 in boxes:
        image[y0:y1, x0:x1] = 230
    return image

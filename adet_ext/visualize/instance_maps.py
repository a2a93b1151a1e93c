"""Follow the mask of an instance step by step (equations 4.1 to 4.4, 5.7 and 5.8).

Shapes: D instances, C bases, h, w their height and width, H, W image height and width.
"""

import numpy as np
import torch

from ..d2.structures import Instances
from ..data.catalog import name_of
from ..modeling.mask.instance_prediction import InstancePrediction
from .maps import InstanceMaps

__all__ = ["instance_maps"]


@torch.inference_mode()
def instance_maps(
    prediction: InstancePrediction,
    bases: torch.Tensor,
    instances: Instances,
    image: np.ndarray,
    image_size: tuple[int, int],
    class_names: list[str],
) -> list[InstanceMaps]:
    """Follow the masks of an image's instances, in their boxes as clipped to the image.

    Args:
        prediction: the part of a model that makes masks, whose ``is_sum`` is true.
        bases: float (C, h, w).
        instances: D, in the frame of ``image``, with their embeddings in the field ``prediction.field``.
        image: RGB uint8 (H, W, 3).
        image_size: (height, width) of the image in the network's frame.
        class_names: names by class index.
    """
    boxes = instances.pred_boxes.tensor
    scale = [image_size[0] / image.shape[0], image_size[1] / image.shape[1]]
    embeddings = instances.get(prediction.field).to(bases)
    maps = prediction.maps(bases, embeddings, boxes * boxes.new_tensor(scale[::-1] * 2))
    labels = [
        f"{name_of(class_names, category)} {100 * score:.0f}%"
        for category, score in zip(instances.pred_classes.tolist(), instances.scores.tolist())
    ]
    return [
        InstanceMaps(label=labels[g], crop=_cut(image, box), **{name: each[g].cpu() for name, each in maps.items()})
        for g, box in enumerate(boxes.tolist())
    ]


def _cut(image: np.ndarray, box: list[float]) -> np.ndarray:
    """Return the image in a box, at least one pixel of it."""
    height, width = image.shape[:2]
    x0, y0 = min(max(0, int(box[0])), width - 1), min(max(0, int(box[1])), height - 1)
    return image[y0 : max(y0 + 1, round(box[3])), x0 : max(x0 + 1, round(box[2]))]

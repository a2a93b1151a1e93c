"""Predicted instances as entries of a COCO result file, with file and category names beside the ids."""

import json
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from ..d2.structures import Instances
from ..data.catalog import name_of
from ..utils.files import written_beside

__all__ = ["image_ids", "to_results", "write_results"]


def image_ids(paths: Sequence[str]) -> list[int]:
    """An id per image: the number its name is, where all names are different numbers (as COCO's), else 1, 2, 3 ..."""
    stems = [os.path.splitext(os.path.basename(path))[0] for path in paths]
    if all(stem.isdecimal() for stem in stems) and len({int(stem) for stem in stems}) == len(stems):
        return [int(stem) for stem in stems]
    return list(range(1, len(paths) + 1))


def to_results(
    instances: Instances, image_id: int, file_name: str, class_names: Sequence[str], category_ids: Sequence[int] = ()
) -> list[dict[str, Any]]:
    """Return one dict per instance, best score first.

    Keys: ``image_id``, ``file_name``, ``category_id``, ``category_name``, ``bbox`` (x, y, width, height in pixels),
    ``score`` and, where there are masks, ``segmentation`` (compressed run lengths).

    Args:
        instances: on any device; ``pred_boxes``, ``scores``, ``pred_classes`` and perhaps ``pred_masks``.
        class_names: names by class index.
        category_ids: the data set's id by class index; the index itself where there is none.
    """
    instances = instances.to("cpu")
    classes, scores = instances.pred_classes.tolist(), instances.scores.tolist()
    boxes = instances.pred_boxes.tensor.tolist()
    results = []
    for index in sorted(range(len(scores)), key=lambda i: -scores[i]):
        x0, y0, x1, y1 = boxes[index]
        category = classes[index]
        result = {
            "image_id": image_id,
            "file_name": file_name,
            "category_id": category_ids[category] if category < len(category_ids) else category,
            "category_name": name_of(class_names, category),
            "bbox": [round(value, 3) for value in (x0, y0, x1 - x0, y1 - y0)],
            "score": round(scores[index], 6),
        }
        if instances.has("pred_masks"):
            mask = np.asfortranarray(instances.pred_masks[index].numpy(), dtype=np.uint8)
            runs = coco_mask.encode(mask)
            result["segmentation"] = {"size": [int(n) for n in runs["size"]], "counts": runs["counts"].decode()}
        results.append(result)
    return results


def write_results(results: Sequence[dict[str, Any]], path: str) -> None:
    """Write the results as one JSON list, beside ``path``, and rename. Raises UserError where that fails."""
    with written_beside(path) as beside, open(beside, "w", encoding="utf-8") as file:
        json.dump(list(results), file)

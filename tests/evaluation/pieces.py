"""A small LVIS file, its share of COCO's categories registered, and outputs of a model on its images."""

import json
from pathlib import Path

import pytest
import torch

from adet_ext.d2.data import MetadataCatalog
from adet_ext.d2.structures import Boxes, Instances
from adet_ext.evaluation.lvis import LVISEvaluator

try:
    import lvis  # noqa: F401
except ImportError:
    HAS_LVIS = False
else:
    HAS_LVIS = True
needs_lvis = pytest.mark.skipif(not HAS_LVIS, reason="the lvis package, which evaluates, is not installed here")

NAME = "test_lvis"
CAT, DOG, BEAR = 17, 18, 23  # in COCO's files
H, W = 60, 80
# Plain LVIS: other ids, and categories that COCO does not have.
CATEGORIES = [
    {"id": 1, "synset": "acorn.n.01", "name": "acorn", "frequency": "r"},
    {"id": 2, "synset": "bear.n.01", "name": "bear", "frequency": "f"},
    {"id": 3, "synset": "cat.n.01", "name": "cat", "frequency": "c"},
    {"id": 4, "synset": "dog.n.01", "name": "dog", "frequency": "f"},
    {"id": 5, "synset": "pizza.n.01", "name": "pizza", "frequency": "f"},
]


def image(number: int, negative=(), not_exhaustive=()) -> dict:
    return {
        "id": number, "height": H, "width": W, "file_name": f"COCO_val2014_{number}.jpg",
        "coco_url": f"http://images.cocodataset.org/val2017/{number}.png",
        "neg_category_ids": list(negative), "not_exhaustive_category_ids": list(not_exhaustive),
    }  # fmt: skip


def rectangle(x: float, y: float, w: float, h: float) -> dict:
    polygon = [x, y, x + w, y, x + w, y + h, x, y + h]
    return {"bbox": [x, y, w, h], "segmentation": [polygon], "area": float(w * h)}


def annotation(number: int, image_id: int, category: int, *box: float) -> dict:
    return {"id": number, "image_id": image_id, "category_id": category, **rectangle(*box)}


def plain() -> dict:
    return {
        "info": {"year": 2019},
        "images": [image(7, negative=[4, 1], not_exhaustive=[3]), image(5, negative=[2])],
        "categories": [dict(c) for c in CATEGORIES],
        "annotations": [
            annotation(30, 7, 1, 1, 1, 9, 9), annotation(31, 7, 3, 10, 12, 20, 16), annotation(32, 5, 4, 5, 5, 50, 40),
            annotation(33, 5, 4, 60, 6, 15, 30),
        ],
    }  # fmt: skip


def written(folder: Path, content, name: str = "lvis.json") -> str:
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(path)


def contiguous(category: int) -> int:
    return MetadataCatalog.get("coco_2017_val").thing_dataset_id_to_contiguous_id[category]


def detections(*found: tuple, masks: bool = True, notch: int = 0) -> dict:
    """Of (category, score, x, y, w, h) each, an output of a model; ``notch``: the side of a corner masks lack."""
    instances = Instances((H, W))
    boxes = torch.tensor([[x, y, x + w, y + h] for _, _, x, y, w, h in found], dtype=torch.float32)
    instances.pred_boxes = Boxes(boxes.reshape(-1, 4))
    instances.scores = torch.tensor([d[1] for d in found], dtype=torch.float32)
    instances.pred_classes = torch.tensor([contiguous(d[0]) for d in found], dtype=torch.int64)
    if masks:
        instances.pred_masks = torch.zeros(len(found), H, W, dtype=torch.bool)
        for mask, (_, _, x, y, w, h) in zip(instances.pred_masks, found):
            mask[y : y + h, x : x + w] = True
            mask[y : y + notch, x : x + notch] = False
    return {"instances": instances}


PERFECT = {7: [(CAT, 0.9, 10, 12, 20, 16)], 5: [(DOG, 0.8, 5, 5, 50, 40), (DOG, 0.7, 60, 6, 15, 30)]}


def evaluate(found: dict[int, list[tuple]], *, masks: bool = True, notch: int = 0, **options) -> dict:
    evaluator = LVISEvaluator(NAME, **options)
    evaluator.reset()
    for number, each in found.items():
        evaluator.process([{"image_id": number}], [detections(*each, masks=masks, notch=notch)])
    return evaluator.evaluate()

"""The content of a split of the "shapes" data set: images, labels, dataset dicts and COCO ground truth.

Shapes: H, W image height and width. Everything is a function of a :class:`ShapesSpec`; nothing is stored.
"""

import dataclasses
import os

import numpy as np
import pycocotools.mask as mask_util

from ..d2.structures import BoxMode
from ..errors import UserError
from .shapes_scene import STUFF_CLASSES, THING_CLASSES, Scene, paint, random_backdrop, random_scene

__all__ = [
    "ShapesSpec",
    "coco_instances",
    "coco_panoptic",
    "dense_labels",
    "shapes_dicts",
    "shapes_image",
    "shapes_labels",
]

PREFIX = "shapes://"
# Category ids as in a COCO file: things from 1, then stuff.
STUFF_IDS = tuple(range(len(THING_CLASSES) + 1, len(THING_CLASSES) + len(STUFF_CLASSES) + 1))
STUFF_SEGMENT = 100  # segment ids: instance k of an image is k + 1, stuff class s is 100 + s
THING_COLORS = ((230, 60, 50), (40, 150, 230), (250, 190, 0), (50, 200, 110), (170, 90, 250), (250, 130, 30))
STUFF_COLORS = ((120, 120, 130), (160, 200, 200), (200, 180, 160))


@dataclasses.dataclass(frozen=True)
class ShapesSpec:
    """One split: ``num_images`` pictures of ``height`` x ``width`` pixels drawn with ``seed``."""

    num_images: int
    height: int
    width: int
    seed: int

    def __post_init__(self) -> None:
        if self.num_images < 1 or min(self.height, self.width) < 32 or self.seed < 0:
            raise UserError(
                f"a shapes data set needs at least 1 image of at least 32 x 32 pixels and a seed >= 0; "
                f"got {self.num_images} of {self.height} x {self.width}, seed {self.seed}"
            )

    @property
    def root(self) -> str:
        return f"{PREFIX}seed{self.seed}-{self.height}x{self.width}-n{self.num_images}"

    def path(self, kind: str, index: int) -> str:
        return f"{self.root}/{kind}/{index:06d}.png"

    def _rng(self, index: int, purpose: int) -> np.random.RandomState:
        # Layout and paint have separate random streams, so labels are made without painting.
        return np.random.RandomState([self.seed, self.height, self.width, index, purpose])

    def scene(self, index: int) -> Scene:
        return random_scene(self._rng(index, 0), self.height, self.width)


def shapes_image(spec: ShapesSpec, index: int) -> np.ndarray:
    """Return image ``index`` as RGB uint8 [H, W, 3]."""
    backdrop = random_backdrop(spec._rng(index, 1), spec.height, spec.width)
    return paint(spec._rng(index, 2), spec.scene(index), backdrop)


def shapes_labels(spec: ShapesSpec, index: int) -> tuple[np.ndarray, np.ndarray, list[dict]]:
    """Return the dense labels of image ``index``.

    Returns:
        ``sem_seg`` uint8 [H, W], 0 on things and 1 + s on stuff class s; ``panoptic`` int32 [H, W] of segment
        ids; ``segments_info`` with the id, category_id (as in the COCO file: things from 1, then stuff), area,
        bbox (x, y, w, h) and iscrowd of each segment. Segment k + 1 is instance k of the image's annotations.
    """
    backdrop = random_backdrop(spec._rng(index, 1), spec.height, spec.width)
    return dense_labels(spec.scene(index), backdrop.stuff)


def dense_labels(scene: Scene, stuff: np.ndarray) -> tuple[np.ndarray, np.ndarray, list[dict]]:
    """Return the labels of :func:`shapes_labels` for any scene. Instances without visible pixels have no segment."""
    sem_seg = stuff + np.uint8(1)
    panoptic = stuff.astype(np.int32) + STUFF_SEGMENT
    categories = {STUFF_SEGMENT + s: category for s, category in enumerate(STUFF_IDS)}
    for k, (shape, mask) in enumerate(zip(scene.shapes, scene.masks)):
        sem_seg[mask], panoptic[mask] = 0, k + 1
        categories[k + 1] = shape.category + 1
    segments = []
    for segment in np.unique(panoptic).tolist():
        mask = panoptic == segment
        segments.append(
            {
                "id": segment,
                "category_id": categories[segment],
                "area": int(np.count_nonzero(mask)),
                "bbox": tight_box(mask),
                "iscrowd": 0,
            }
        )
    return sem_seg, panoptic, segments


def tight_box(mask: np.ndarray) -> list[int]:
    """Return (x, y, w, h) of a mask that is not empty."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    x, y = int(columns[0]), int(rows[0])
    return [x, y, int(columns[-1]) + 1 - x, int(rows[-1]) + 1 - y]


def encode(mask: np.ndarray) -> dict:
    """Return a mask as compressed COCO RLE with text counts, which JSON can hold."""
    rle = mask_util.encode(np.asfortranarray(mask, np.uint8))
    return {"size": list(rle["size"]), "counts": rle["counts"].decode("ascii")}


def shapes_dicts(spec: ShapesSpec, panoptic: bool = False) -> list[dict]:
    """Return the data set as Detectron2 dicts; masks are RLE of the visible parts, and boxes are tight.

    With ``panoptic``, each has ``sem_seg_file_name``, ``pan_seg_file_name`` and ``segments_info`` as well.
    """
    dicts = []
    for index in range(spec.num_images):
        scene = spec.scene(index)
        record = {
            "file_name": spec.path("images", index),
            "image_id": index,
            "height": spec.height,
            "width": spec.width,
            "annotations": [
                {
                    # Floats, because transforms scale coordinates in place.
                    "bbox": [float(v) for v in tight_box(mask)],
                    "bbox_mode": BoxMode.XYWH_ABS,
                    "category_id": shape.category,
                    "iscrowd": 0,
                    "segmentation": encode(mask),
                }
                for shape, mask in zip(scene.shapes, scene.masks)
            ],
        }
        if panoptic:
            record["sem_seg_file_name"] = spec.path("sem_seg", index)
            record["pan_seg_file_name"] = spec.path("panoptic", index)
            record["segments_info"] = shapes_labels(spec, index)[2]
        dicts.append(record)
    return dicts


def coco_instances(spec: ShapesSpec) -> dict:
    """Return the ground truth in COCO's instances format."""
    images, annotations = [], []
    for record in shapes_dicts(spec):
        images.append(_image_entry(record))
        for ann in record["annotations"]:
            entry = {key: ann[key] for key in ("bbox", "iscrowd", "segmentation")}
            entry["area"] = int(mask_util.area(ann["segmentation"]))
            entry["category_id"] = ann["category_id"] + 1
            # pycocotools takes annotation id 0 for "no match", so ids start at 1.
            entry.update(id=len(annotations) + 1, image_id=record["image_id"])
            annotations.append(entry)
    return {"images": images, "annotations": annotations, "categories": _categories()[: len(THING_CLASSES)]}


def coco_panoptic(spec: ShapesSpec) -> dict:
    """Return the ground truth in COCO's panoptic format; the maps are ``{root}/panoptic/{file_name}``."""
    images, annotations = [], []
    for record in shapes_dicts(spec, panoptic=True):
        images.append(_image_entry(record))
        annotations.append(
            {
                "image_id": record["image_id"],
                "file_name": os.path.basename(record["pan_seg_file_name"]),
                "segments_info": record["segments_info"],
            }
        )
    return {"images": images, "annotations": annotations, "categories": _categories()}


def _image_entry(record: dict) -> dict:
    return {
        "id": record["image_id"],
        "file_name": os.path.basename(record["file_name"]),
        "height": record["height"],
        "width": record["width"],
    }


def _categories() -> list[dict]:
    names = THING_CLASSES + STUFF_CLASSES
    colors = THING_COLORS + STUFF_COLORS
    return [
        {"id": i + 1, "name": name, "isthing": int(i < len(THING_CLASSES)), "color": list(colors[i])}
        for i, name in enumerate(names)
    ]

"""The built-in "shapes" data set: pictures of overlapping shapes, made from (seed, index) whenever one is read.

Nothing is downloaded and nothing is kept on disk. Images and label maps have file names that start with
``shapes://``, and the path manager of the package (Detectron2's own where it is installed) knows how to read
them, so that mappers, evaluators and scripts treat the data set like any other:

    shapes://seed0-128x128-n2000/images/000123.png      RGB
    shapes://seed0-128x128-n2000/sem_seg/000123.png     0: things, 1..3: stuff classes
    shapes://seed0-128x128-n2000/panoptic/000123.png    RGB coded segment ids, COCO's panoptic format
    shapes://seed0-128x128-n2000/instances.json         ground truth in COCO's format; also panoptic.json

``shapes_train`` and ``shapes_val`` are registered on import, and as ``..._panoptic`` with semantic and panoptic
labels. Image i of a split is a function of the seed, the size and i alone.
"""

import dataclasses
import functools
import io
import json
import os
import re
from collections.abc import Callable

import cv2
import numpy as np
import pycocotools.mask as mask_util

from ..d2.data import DatasetCatalog, MetadataCatalog
from ..d2.structures import BoxMode
from ..d2.utils import PathHandler, PathManager
from ..errors import UserError
from .catalog import process_folder, replace_dataset
from .shapes_scene import STUFF_CLASSES, THING_CLASSES, Scene, paint, random_backdrop, random_scene

__all__ = [
    "ShapesSpec",
    "register_shapes",
    "shapes_coco_json",
    "shapes_dicts",
    "shapes_image",
    "shapes_labels",
    "shapes_panoptic_json",
]

PREFIX = "shapes://"
IGNORE_LABEL = 255
# Dataset ids as a COCO file has them: things from 1, stuff after them.
_STUFF_IDS = tuple(range(len(THING_CLASSES) + 1, len(THING_CLASSES) + len(STUFF_CLASSES) + 1))
_STUFF_SEGMENT = 100  # segment ids: instance k of an image is k + 1, stuff class s is 100 + s
_COLOURS = ((230, 60, 50), (40, 150, 230), (250, 190, 0), (50, 200, 110), (170, 90, 250), (250, 130, 30))
_STUFF_COLOURS = ((120, 120, 130), (160, 200, 200), (200, 180, 160))


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
        # Layout and paint have a stream each: labels are made without painting.
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
    """The labels of :func:`shapes_labels` for any scene; instances that do not show make no segment."""
    sem_seg = stuff + np.uint8(1)
    panoptic = stuff.astype(np.int32) + _STUFF_SEGMENT
    categories = {_STUFF_SEGMENT + s: category for s, category in enumerate(_STUFF_IDS)}
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
    """Return the data set as Detectron2 dicts; masks are RLE of the visible parts, boxes tight around them.

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
                    # Floats: coordinates are scaled in place, which would cut whole numbers off.
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


def shapes_coco_json(name_or_spec: str | ShapesSpec) -> dict:
    """Return the ground truth of a split, or of a registered shapes data set, in COCO's instances format."""
    spec = _spec_of(name_or_spec)
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


def shapes_panoptic_json(name_or_spec: str | ShapesSpec) -> dict:
    """The same in COCO's panoptic format; the maps are ``{root}/panoptic/{file_name}``."""
    spec = _spec_of(name_or_spec)
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
    colours = _COLOURS + _STUFF_COLOURS
    return [
        {"id": i + 1, "name": name, "isthing": int(i < len(THING_CLASSES)), "color": list(colours[i])}
        for i, name in enumerate(names)
    ]


def _spec_of(name_or_spec: str | ShapesSpec) -> ShapesSpec:
    if isinstance(name_or_spec, ShapesSpec):
        return name_or_spec
    root = MetadataCatalog.get(name_or_spec).get("image_root", "") if name_or_spec in DatasetCatalog else ""
    if not str(root).startswith(PREFIX):
        raise UserError(f"{name_or_spec!r} is not a registered shapes data set; register_shapes() makes one")
    return _parse(root)[0]


def register_shapes(
    name: str, num_images: int, size: int | tuple[int, int] = 128, seed: int = 0, panoptic: bool = False
) -> ShapesSpec:
    """Register a shapes data set under ``name``, in place of what was registered there.

    Args:
        num_images: how many; image i does not depend on it.
        size: side in pixels, or (height, width).
        seed: splits with different seeds share no image.
        panoptic: also give semantic and panoptic labels, and be evaluated by PQ.
    """
    height, width = (size, size) if isinstance(size, int) else size
    spec = ShapesSpec(num_images, height, width, seed)
    metadata = {
        "image_root": f"{spec.root}/images",
        "json_file": f"{spec.root}/instances.json",
        "evaluator_type": "coco",
        "thing_classes": list(THING_CLASSES),
        "thing_colors": [list(c) for c in _COLOURS],
        "thing_dataset_id_to_contiguous_id": {i + 1: i for i in range(len(THING_CLASSES))},
    }
    if panoptic:
        # As Detectron2's separated panoptic sets: semantic label 0 stands for all things.
        metadata.update(
            evaluator_type="coco_panoptic_seg",
            panoptic_root=f"{spec.root}/panoptic",
            panoptic_json=f"{spec.root}/panoptic.json",
            sem_seg_root=f"{spec.root}/sem_seg",
            stuff_classes=["things", *STUFF_CLASSES],
            stuff_colors=[[60, 60, 60], *(list(c) for c in _STUFF_COLOURS)],
            stuff_dataset_id_to_contiguous_id={0: 0, **{c: s + 1 for s, c in enumerate(_STUFF_IDS)}},
            ignore_label=IGNORE_LABEL,
        )
    replace_dataset(name, functools.partial(shapes_dicts, spec, panoptic), metadata)
    return spec


_PATH = re.compile(r"shapes://seed(\d+)-(\d+)x(\d+)-n(\d+)(?:/(.*))?$")
_FILE = re.compile(r"(images|sem_seg|panoptic)/(\d+)\.png$")


def _parse(path: str) -> tuple[ShapesSpec, str]:
    match = _PATH.match(path)
    if not match:
        raise UserError(f"{path}: not a shapes path; they look like shapes://seed0-128x128-n2000/images/000007.png")
    seed, height, width, count = (int(group) for group in match.groups()[:4])
    return ShapesSpec(count, height, width, seed), (match[5] or "").rstrip("/")


def _png(array: np.ndarray) -> bytes:
    pixels = array[..., ::-1] if array.ndim == 3 else array  # OpenCV takes colours as BGR
    # Read back at once: packing would only cost time.
    return cv2.imencode(".png", pixels, [cv2.IMWRITE_PNG_COMPRESSION, 0])[1].tobytes()


def _content(path: str) -> bytes:
    spec, rest = _parse(path)
    match = _FILE.match(rest)
    if match and int(match[2]) < spec.num_images:
        kind, index = match[1], int(match[2])
        if kind == "images":
            return _png(shapes_image(spec, index))
        sem_seg, panoptic, _ = shapes_labels(spec, index)
        if kind == "sem_seg":
            return _png(sem_seg)
        return _png(np.stack([panoptic % 256, panoptic // 256 % 256, panoptic // 65536], -1).astype(np.uint8))
    makers: dict[str, Callable] = {"instances.json": shapes_coco_json, "panoptic.json": shapes_panoptic_json}
    if rest in makers:
        return json.dumps(makers[rest](spec)).encode()
    raise FileNotFoundError(f"{path}: the shapes data set has no such file")


class _ShapesHandler(PathHandler):
    """Reads ``shapes://`` paths. A local copy, where one is asked for, lives as long as the process: never stale."""

    def __init__(self) -> None:
        super().__init__()
        self._folder, self._owner = "", 0

    def _get_supported_prefixes(self) -> list[str]:
        return [PREFIX]

    def _isfile(self, path: str, **kwargs) -> bool:
        spec, rest = _parse(path)
        match = _FILE.match(rest)
        return rest in ("instances.json", "panoptic.json") or bool(match and int(match[2]) < spec.num_images)

    def _isdir(self, path: str, **kwargs) -> bool:
        return _parse(path)[1] in ("", "images", "sem_seg", "panoptic")

    def _exists(self, path: str, **kwargs) -> bool:
        return self._isfile(path) or self._isdir(path)

    def _ls(self, path: str, **kwargs) -> list[str]:
        spec, rest = _parse(path)
        if not rest:
            return ["images", "sem_seg", "panoptic", "instances.json", "panoptic.json"]
        return [f"{index:06d}.png" for index in range(spec.num_images)]

    def _open(self, path: str, mode: str = "r", buffering: int = -1, **kwargs):
        if set(mode) - set("rbt"):
            raise UserError(f"{path}: shapes files are made on the fly and cannot be written")
        content = _content(path)
        return io.BytesIO(content) if "b" in mode else io.StringIO(content.decode())

    def _get_local_path(self, path: str, force: bool = False, **kwargs) -> str:
        if self._owner != os.getpid():  # none yet, or that of the process this one was forked from
            self._folder, self._owner = process_folder(), os.getpid()
        local = os.path.join(self._folder, path[len(PREFIX) :].rstrip("/"))
        if self._isdir(path):
            for name in self._ls(path):
                self._get_local_path(f"{path.rstrip('/')}/{name}")
        elif not os.path.exists(local):
            os.makedirs(os.path.dirname(local), exist_ok=True)
            with open(local + ".part", "wb") as file:
                file.write(_content(path))
            os.replace(local + ".part", local)
        return local


PathManager.register_handler(_ShapesHandler(), allow_override=True)
for _suffix, _panoptic in (("", False), ("_panoptic", True)):
    register_shapes(f"shapes_train{_suffix}", num_images=2000, size=128, seed=0, panoptic=_panoptic)
    register_shapes(f"shapes_val{_suffix}", num_images=200, size=128, seed=1, panoptic=_panoptic)

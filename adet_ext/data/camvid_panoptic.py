"""CamVid with instances: connected regions of its cars, pedestrians and bicyclists, in COCO's panoptic format.

CamVid's labels name the class of a pixel, not the instance. Objects of one class that touch, such as a row of parked
cars, become one instance here, and an object that a pole divides becomes two.

``camvid_panoptic_{train,val,test}`` are registered from ``camvid/`` in the folder of data sets.
"""

import functools
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pycocotools.mask as mask_util
from PIL import Image

from ..d2.structures import BoxMode
from ..errors import UserError
from ..utils.files import make_folder, written_beside
from ..utils.image_io import read_labels
from ..utils.segment_ids import id2rgb
from .camvid import CLASSES, COLORS, SPLITS, VOID, camvid_runs
from .catalog import replace_dataset
from .json_file import read_json
from .semantic_sets import IGNORE

__all__ = ["STUFF", "THINGS", "prepare_camvid_panoptic", "register_camvid_panoptic"]

THINGS = ("Car", "Pedestrian", "Bicyclist")
STUFF = tuple(name for name in CLASSES if name not in THINGS)
_LEAST_PIXELS = 100  # smaller regions of a thing are marked as a crowd: they are neither learned nor counted
_FIRST_INSTANCE = 2 * len(CLASSES) + 1  # ids up to here: stuff, and a crowd of each class


class _Files(NamedTuple):
    instances: str
    panoptic: str
    segments: str  # a folder, as the next
    stuff: str


def _files(folder: str, split: str) -> _Files:
    annotations = os.path.join(folder, "annotations")
    return _Files(
        os.path.join(annotations, f"instances_{split}.json"),
        os.path.join(annotations, f"panoptic_{split}.json"),
        os.path.join(folder, f"panoptic_{split}"),
        os.path.join(folder, f"panoptic_stuff_{split}"),
    )


def prepare_camvid_panoptic(folder: str, tick: Callable[[], Any] = lambda: None) -> dict[str, tuple[int, int]]:
    """Write the panoptic annotations of CamVid into its folder; return the images and instances of each split.

    For a split whose list is there, these are ``annotations/instances_SPLIT.json``, ``annotations/panoptic_SPLIT.json``
    with ``panoptic_SPLIT/*.png``, and ``panoptic_stuff_SPLIT/*.png``: 0 on things, 1 and up on stuff, 255 on void. A
    category's id is the number of its class in the label maps and 1.

    Args:
        folder: what ``data prepare-camvid`` makes.
        tick: called after each image.

    Raises:
        UserError: the folder has no list, a file is missing or broken, or the folder cannot be written to.
    """
    splits = [split for split in SPLITS if os.path.isfile(os.path.join(folder, f"{split}.txt"))]
    if not splits:
        raise UserError(f"{folder} has no train.txt, val.txt or test.txt; make it by 'data prepare-camvid'")
    return {split: _prepare(folder, split, tick) for split in splits}


def _prepare(folder: str, split: str, tick: Callable[[], Any]) -> tuple[int, int]:
    files = _files(folder, split)
    for path in (os.path.dirname(files.instances), files.segments, files.stuff):
        make_folder(path)
    images, panoptic, instances = [], [], []
    pairs = [pair for run in camvid_runs(folder, split) for pair in zip(run.frames, run.labels)]
    for number, (image, labels) in enumerate(pairs, start=1):
        values = read_labels(labels)
        if values.ndim != 2 or values.max() > VOID:
            raise UserError(f"{labels}: values must be up to {VOID}, in one channel; replace it")
        name = f"{Path(image).stem}.png"
        ids, segments = _segments(values)
        _save(os.path.join(files.segments, name), id2rgb(ids))
        _save(os.path.join(files.stuff, name), _stuff_labels()[values])
        height, width = values.shape
        images.append({"id": number, "file_name": os.path.basename(image), "width": width, "height": height})
        panoptic.append({"image_id": number, "file_name": name, "segments_info": segments})
        for segment in segments:
            if CLASSES[segment["category_id"] - 1] in THINGS:
                shared = {key: segment[key] for key in ("category_id", "iscrowd", "area", "bbox")}
                code = {"segmentation": _run_lengths(ids == segment["id"])}
                instances.append({"id": len(instances) + 1, "image_id": number, **shared, **code})
        tick()
    categories = [
        {"id": number, "name": name, "isthing": int(name in THINGS), "color": list(color)}
        for number, (name, color) in enumerate(zip(CLASSES, COLORS), start=1)
    ]
    things = [{"id": c["id"], "name": c["name"]} for c in categories if c["isthing"]]
    _write(files.instances, {"images": images, "annotations": instances, "categories": things})
    _write(files.panoptic, {"images": images, "annotations": panoptic, "categories": categories})
    return len(images), sum(not instance["iscrowd"] for instance in instances)


def _segments(values: np.ndarray) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """Return (H, W) ids of segments, 0 on void, and the entry of each in COCO's panoptic format."""
    import cv2

    ids = np.zeros(values.shape, np.int32)
    next_id = _FIRST_INSTANCE
    for label, name in enumerate(CLASSES):
        mask = values == label
        if name not in THINGS:
            ids[mask] = label + 1
            continue
        count, regions, statistics, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
        large = statistics[:, cv2.CC_STAT_AREA] >= _LEAST_PIXELS
        large[0] = False  # all that is not of this class
        of_region = np.full(count, label + 1 + len(CLASSES), np.int32)
        of_region[large] = next_id + np.arange(large.sum())
        ids[mask] = of_region[regions[mask]]
        next_id += int(large.sum())
    return ids, [_entry(ids == number, int(number), values) for number in np.unique(ids[ids > 0])]


def _entry(mask: np.ndarray, number: int, values: np.ndarray) -> dict[str, Any]:
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    return {
        "id": number,
        "category_id": int(values[mask][0]) + 1,
        "iscrowd": int(len(CLASSES) < number < _FIRST_INSTANCE),
        "area": int(mask.sum()),
        "bbox": [int(v) for v in (columns[0], rows[0], columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1)],
    }


@functools.cache
def _stuff_labels() -> np.ndarray:
    """Return what stands for the values 0 to VOID in the label maps of stuff."""
    numbers = [STUFF.index(name) + 1 if name in STUFF else 0 for name in CLASSES]
    return np.array([*numbers, IGNORE], np.uint8)


def _run_lengths(mask: np.ndarray) -> dict[str, Any]:
    code = mask_util.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": list(mask.shape), "counts": code["counts"].decode("ascii")}


def _save(path: str, pixels: np.ndarray) -> None:
    with written_beside(path) as beside:
        Image.fromarray(pixels).save(beside)


def _write(path: str, content: dict[str, Any]) -> None:
    with written_beside(path) as beside:
        Path(beside).write_text(json.dumps(content), encoding="utf-8")


def register_camvid_panoptic(name: str, folder: str, split: str) -> None:
    """Register what :func:`prepare_camvid_panoptic` made of a split under ``name``; files are read when it is loaded.

    Semantic label 0 stands for all things, as in Detectron2's separated panoptic sets.
    """
    files = _files(folder, split)
    metadata = {
        "image_root": os.path.join(folder, split),
        "json_file": files.instances,
        "panoptic_json": files.panoptic,
        "panoptic_root": files.segments,
        "sem_seg_root": files.stuff,
        "evaluator_type": "coco_panoptic_seg",
        "thing_classes": list(THINGS),
        "thing_colors": [list(COLORS[CLASSES.index(name)]) for name in THINGS],
        "thing_dataset_id_to_contiguous_id": {CLASSES.index(name) + 1: i for i, name in enumerate(THINGS)},
        "stuff_classes": ["things", *STUFF],
        "stuff_colors": [[60, 60, 60], *(list(COLORS[CLASSES.index(name)]) for name in STUFF)],
        "stuff_dataset_id_to_contiguous_id": {0: 0, **{CLASSES.index(n) + 1: i for i, n in enumerate(STUFF, start=1)}},
        "ignore_label": IGNORE,
    }
    replace_dataset(name, functools.partial(_load, folder, split), metadata)


def _load(folder: str, split: str) -> list[dict[str, Any]]:
    files = _files(folder, split)
    if not os.path.isfile(files.instances):
        raise UserError(
            f"{files.instances} is missing; make it by 'python -m adet_ext data prepare-camvid-panoptic {folder}'"
        )
    content = read_json(files.instances)
    number_of = {category["id"]: THINGS.index(category["name"]) for category in content["categories"]}
    annotations: dict[int, list[dict]] = {image["id"]: [] for image in content["images"]}
    for a in content["annotations"]:
        shared = {key: a[key] for key in ("iscrowd", "bbox", "segmentation")}
        number = number_of[a["category_id"]]
        annotations[a["image_id"]].append({**shared, "bbox_mode": BoxMode.XYWH_ABS, "category_id": number})
    return [
        {
            "file_name": os.path.join(folder, split, image["file_name"]),
            "sem_seg_file_name": os.path.join(files.stuff, f"{Path(image['file_name']).stem}.png"),
            "image_id": image["id"],
            "height": image["height"],
            "width": image["width"],
            "annotations": annotations[image["id"]],
        }
        for image in content["images"]
    ]


def _register_built_in() -> None:
    root = os.path.expanduser(os.getenv("DETECTRON2_DATASETS", "datasets"))
    for split in SPLITS:
        register_camvid_panoptic(f"camvid_panoptic_{split}", os.path.join(root, "camvid"), split)


_register_built_in()

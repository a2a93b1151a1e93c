"""Make panoptic annotations of CamVid, in COCO's format.

CamVid's labels name the class of a pixel, not the instance. Connected regions of cars, pedestrians and bicyclists stand
for instances: objects of one class that touch, such as a row of parked cars, become one, and an object that a pole
divides becomes two.
"""

import functools
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..errors import UserError
from ..utils.files import make_folder, written_beside
from ..utils.image_io import read_labels
from ..utils.segment_ids import id2rgb
from .camvid import CLASSES, COLORS, SPLITS, VOID, camvid_runs
from .camvid_panoptic import STUFF, THINGS, files_of
from .semantic_sets import IGNORE
from .small_sets import run_lengths

__all__ = ["prepare_camvid_panoptic"]

_LEAST_PIXELS = 100  # smaller regions of a thing are marked as a crowd: they are neither learned nor counted
_FIRST_INSTANCE = 2 * len(CLASSES) + 1  # lower ids: stuff, and a crowd of each class


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
    files = files_of(folder, split)
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
                code = {"segmentation": run_lengths(ids == segment["id"])}
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


def _save(path: str, pixels: np.ndarray) -> None:
    with written_beside(path) as beside:
        Image.fromarray(pixels).save(beside)


def _write(path: str, content: dict[str, Any]) -> None:
    with written_beside(path) as beside:
        Path(beside).write_text(json.dumps(content), encoding="utf-8")

"""Make COCO annotations of the Penn-Fudan pedestrians (Wang et al., ACCV 2007).

The archive PennFudanPed.zip has ``PNGImages/NAME.png`` and ``PedMasks/NAME_mask.png``, whose value k > 0 is person k.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask as mask_util

from ..errors import UserError
from ..utils.files import make_folder, written_beside
from ..utils.image_io import read_labels
from .small_sets import VALIDATION_STEP, copy_as_jpeg, required, run_lengths

__all__ = ["prepare_pennfudan"]

_SITE = "https://www.cis.upenn.edu/~jshi/ped_html/"


def prepare_pennfudan(source: str, target: str, tick: Callable[[], Any] = lambda: None) -> dict[str, tuple[int, int]]:
    """Write ``target``/{train,val}/*.jpg and annotations/instances_*.json; return images and people of each part.

    Images are numbered from 1 in the order of their names; every fifth validates. The training images are divided once
    more: recipes are chosen by every fifth ("choose"), which learn from the rest ("fit"). Masks are run lengths and
    have the pixels of the archive's. Images that are there already stay, so that a run that was stopped can be started
    again.

    Args:
        source: the folder PennFudanPed of the archive.
        tick: called after each image.

    Raises:
        UserError: a file is missing or broken, or ``target`` cannot be written to.
    """
    required(source, ("PNGImages", "PedMasks"), f"the folder PennFudanPed of PennFudanPed.zip, see {_SITE}")
    names = sorted(path.stem for path in Path(source, "PNGImages").glob("*.png"))
    if not names:
        raise UserError(f"{os.path.join(source, 'PNGImages')} has no *.png; unpack PennFudanPed.zip again")
    required(source, (os.path.join("PedMasks", f"{name}_mask.png") for name in names), "complete")
    folders = {part: make_folder(os.path.join(target, part)) for part in ("train", "val", "annotations")}
    images: dict[str, list[dict]] = {"train": [], "val": []}
    people: dict[str, list[dict]] = {"train": [], "val": []}
    for number, name in enumerate(names, start=1):
        part = "train" if number % VALIDATION_STEP else "val"
        width, height = copy_as_jpeg(
            os.path.join(source, "PNGImages", f"{name}.png"), os.path.join(folders[part], f"{name}.jpg")
        )
        mask = os.path.join(source, "PedMasks", f"{name}_mask.png")
        labels = read_labels(mask)
        if labels.shape != (height, width):
            raise UserError(f"{mask} is {labels.shape[1]} x {labels.shape[0]} pixels, its image {width} x {height}")
        images[part].append({"id": number, "file_name": f"{name}.jpg", "width": width, "height": height})
        for value in np.unique(labels[labels > 0]):
            people[part].append({"id": len(people[part]) + 1, "image_id": number, **_annotation(labels == value)})
        tick()
    chooses = {image["id"] for image in images["train"][VALIDATION_STEP - 1 :: VALIDATION_STEP]}
    for part, wanted in (("fit", False), ("choose", True)):
        images[part] = [image for image in images["train"] if (image["id"] in chooses) is wanted]
        people[part] = [person for person in people["train"] if (person["image_id"] in chooses) is wanted]
    for part in images:
        _write(os.path.join(folders["annotations"], f"instances_{part}.json"), part, images[part], people[part])
    return {part: (len(images[part]), len(people[part])) for part in images}


def _annotation(mask: np.ndarray) -> dict[str, Any]:
    code = run_lengths(mask)
    return {
        "category_id": 1,
        "iscrowd": 0,
        "area": int(mask.sum()),
        "bbox": [int(value) for value in mask_util.toBbox(code)],
        "segmentation": code,
    }


def _write(path: str, part: str, images: list[dict], annotations: list[dict]) -> None:
    content = {
        "info": {"description": f"Penn-Fudan Database for Pedestrian Detection, {part} part", "url": _SITE},
        "licenses": [],
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 1, "name": "person", "supercategory": "person"}],
    }
    with written_beside(path) as beside:
        Path(beside).write_text(json.dumps(content), encoding="utf-8")

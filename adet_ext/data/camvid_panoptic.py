"""CamVid with instances: connected regions of its cars, pedestrians and bicyclists, in COCO's panoptic format.

``camvid_panoptic_{train,val,test}`` are registered from ``camvid/`` in the folder of data sets, as
:mod:`.prepare_camvid_panoptic` made them.
"""

import functools
import os
from pathlib import Path
from typing import Any, NamedTuple

from ..d2.structures import BoxMode
from ..errors import UserError
from .camvid import CLASSES, COLORS, SPLITS
from .catalog import replace_dataset
from .json_file import read_json
from .semantic_sets import IGNORE

__all__ = ["STUFF", "THINGS", "Files", "files_of", "register_camvid_panoptic"]

THINGS = ("Car", "Pedestrian", "Bicyclist")
STUFF = tuple(name for name in CLASSES if name not in THINGS)


class Files(NamedTuple):
    """Annotations of instances and of segments in COCO's format; the folders of PNGs of segments, and of stuff."""

    instances: str
    panoptic: str
    segments: str
    stuff: str


def files_of(folder: str, split: str) -> Files:
    """Return where the annotations of a split are, in the folder of CamVid."""
    annotations = os.path.join(folder, "annotations")
    return Files(
        os.path.join(annotations, f"instances_{split}.json"),
        os.path.join(annotations, f"panoptic_{split}.json"),
        os.path.join(folder, f"panoptic_{split}"),
        os.path.join(folder, f"panoptic_stuff_{split}"),
    )


def register_camvid_panoptic(name: str, folder: str, split: str) -> None:
    """Register what ``data prepare-camvid-panoptic`` made of a split under ``name``; files are read when it is loaded.

    Semantic label 0 stands for all things, as in Detectron2's separated panoptic sets.
    """
    files = files_of(folder, split)
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
    files = files_of(folder, split)
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

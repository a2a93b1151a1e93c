"""Penn-Fudan's pedestrians, as ``data prepare-pennfudan`` lays them out, under built-in names.

``pennfudan_train`` and ``pennfudan_val`` are read from ``pennfudan/`` in the folder of data sets. ``pennfudan_fit`` and
``pennfudan_choose`` divide the training images, so that a recipe can be chosen without the validation images.
"""

import functools
import os

from ..errors import UserError
from .catalog import replace_dataset
from .validate import validate_coco

__all__ = ["FOLDER_OF"]

# The names of parts, and the folder that their images are in.
FOLDER_OF = {"train": "train", "val": "val", "fit": "train", "choose": "train"}


def _load(images: str, annotations: str) -> list[dict]:
    if not os.path.isfile(annotations):
        raise UserError(
            f"{annotations} is missing; make it by 'python -m adet_ext data prepare-pennfudan PennFudanPed "
            f"{os.path.dirname(os.path.dirname(annotations))}'"
        )
    checked = validate_coco(annotations, images)
    checked.report.raise_for_errors()
    return checked.dataset_dicts


def _register_built_in() -> None:
    root = os.path.join(os.path.expanduser(os.getenv("DETECTRON2_DATASETS", "datasets")), "pennfudan")
    for part, folder in FOLDER_OF.items():
        images, annotations = os.path.join(root, folder), os.path.join(root, "annotations", f"instances_{part}.json")
        metadata = {
            "json_file": annotations,
            "image_root": images,
            "evaluator_type": "coco",
            "thing_classes": ["person"],
            "thing_dataset_id_to_contiguous_id": {1: 0},
        }
        replace_dataset(f"pennfudan_{part}", functools.partial(_load, images, annotations), metadata)


_register_built_in()

"""Registering any COCO-format data set under a name, for ``--dataset NAME IMAGES ANNOTATIONS`` and for scripts."""

import functools
import json
import logging
import os
from collections.abc import Sequence

from ..d2.data import DatasetCatalog, MetadataCatalog
from ..errors import UserError
from .catalog import process_folder, replace_dataset
from .validate import CheckedCoco, validate_coco

__all__ = ["num_classes_of", "register_dataset"]

logger = logging.getLogger(__name__)


def register_dataset(name: str, images: str, annotations: str) -> list[str]:
    """Check a COCO-format data set, register it, and return its class names.

    Class names and their number come from the file. Registering a name again replaces what it stood for. The file
    is read, checked and cleaned afresh whenever the data set is loaded: there is no converted copy to go stale.

    Args:
        name: what ``DATASETS.TRAIN`` and ``DATASETS.TEST`` call it.
        images: the folder that the file names in the annotation file start from.
        annotations: the annotation file.

    Raises:
        UserError: the set has errors, with a sentence for each kind.
    """
    if not name:
        raise UserError(f"a data set needs a name: --dataset NAME {images} {annotations}")
    checked = _checked(images, annotations)
    json_file = annotations
    if checked.repaired is not None:
        # Evaluators read a file. This one lives as long as the process, so the next run cannot find an old one.
        json_file = os.path.join(process_folder(), os.path.basename(annotations))
        with open(json_file, "w", encoding="utf-8") as file:
            json.dump(checked.repaired, file)
    replace_dataset(
        name,
        functools.partial(_load, name, images, annotations, checked.classes),
        {
            "json_file": json_file,
            "image_root": images,
            "evaluator_type": "coco",
            "thing_classes": checked.classes,
            "thing_dataset_id_to_contiguous_id": checked.category_ids,
        },
    )
    found = checked.report.warnings
    if found:
        kinds = "; ".join(f"{f.kind}: {f.count}" for f in found)
        logger.warning(
            "Data set %s has flaws that are worked around (%s). For a list: python -m adet_ext data validate %s %s %s",
            name, kinds, name, images, annotations,
        )  # fmt: skip
    logger.info("Registered %s: %d images, %d classes.", name, len(checked.dataset_dicts), len(checked.classes))
    return checked.classes


def _checked(images: str, annotations: str) -> CheckedCoco:
    checked = validate_coco(annotations, images)
    checked.report.raise_for_errors()
    return checked


def _load(name: str, images: str, annotations: str, classes: list[str]) -> list[dict]:
    checked = _checked(images, annotations)
    if checked.classes != classes:
        raise UserError(
            f"{annotations}: its categories have changed since {name} was registered (from {', '.join(classes)} to "
            f"{', '.join(checked.classes)}); register it again"
        )
    return checked.dataset_dicts


def num_classes_of(dataset_names: Sequence[str]) -> int:
    """Return how many thing classes the data sets have; 0 if none of them says so.

    Sets registered by a JSON file alone say so once they are loaded, which this does where it has to.

    Raises:
        UserError: a name is not registered, or the sets' classes differ.
    """
    classes: dict[str, list[str]] = {}
    for name in dataset_names:
        if name not in DatasetCatalog:
            raise UserError(
                f"there is no data set {name!r}; register it with --dataset NAME IMAGES ANNOTATIONS, or see "
                "'python -m adet_ext data list'"
            )
        if MetadataCatalog.get(name).get("thing_classes") is None:
            try:
                DatasetCatalog.get(name)
            except FileNotFoundError as error:
                raise UserError(
                    f"data set {name}: {error.filename or error} is missing; built-in names are read from the folder "
                    "that the environment variable DETECTRON2_DATASETS names"
                ) from error
        found = MetadataCatalog.get(name).get("thing_classes")
        if found is not None:
            classes[name] = list(found)
    different = [name for name in classes if classes[name] != next(iter(classes.values()))]
    if different:
        first = next(iter(classes))
        raise UserError(
            f"data sets {first} ({', '.join(classes[first])}) and {different[0]} ({', '.join(classes[different[0]])}) "
            "have different classes and cannot be used together; merge their annotation files"
        )
    return len(next(iter(classes.values()))) if classes else 0

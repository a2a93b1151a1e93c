"""Registering a data set of COCO's or VOC's format, for ``--dataset NAME IMAGES ANNOTATIONS`` and for scripts."""

import functools
import json
import logging
import os
import pickle
from collections.abc import Sequence
from typing import NamedTuple

from ..d2.data import DatasetCatalog, MetadataCatalog
from ..errors import UserError
from ..utils.files import written_beside
from .catalog import process_folder, replace_dataset
from .match_classes import match_classes
from .validate import CheckedCoco, validate_coco
from .validate_voc import is_image_set
from .voc import register_voc_dataset

__all__ = ["check_registered", "num_classes_of", "register_dataset"]

logger = logging.getLogger(__name__)


class _Kept(NamedTuple):
    """What validation found, for the loads to come; pickled, because a data set's objects take five times as much."""

    state: tuple[int, int]
    classes: list[str]
    dataset_dicts: bytes


_kept: dict[str, _Kept] = {}


def register_dataset(
    name: str, images: str, annotations: str, *, classes: Sequence[str] | None = None, allow_outside: bool = False
) -> list[str]:
    """Check a data set in COCO's or PASCAL VOC's format, register it, and return its class names.

    Class names and their number come from the file. Registering a name again replaces what it stood for. Training and
    evaluation read the same checked annotations; there is no converted copy to go stale.

    Args:
        name: what ``DATASETS.TRAIN`` and ``DATASETS.TEST`` call it.
        images: the folder that the file names in the annotation file start from.
        annotations: COCO's JSON file; or, for VOC's format, the list of images, a text file such as
            ``ImageSets/Main/train.txt`` (see :func:`~adet_ext.data.voc.register_voc_dataset`, which has more options).
        classes: the class names of the model in their order, those of the training set for example; the file's
            categories are matched with them by name. None: the file's own, by ascending category id.
        allow_outside: accept image files outside ``images``.

    Raises:
        UserError: the set has errors, with a sentence for each kind, or a category that ``classes`` does not have.
    """
    if not name:
        raise UserError(f"a data set needs a name: --dataset NAME {images} {annotations}")
    if is_image_set(annotations):
        return register_voc_dataset(name, images, annotations, classes=classes, allow_outside=allow_outside)
    checked = _checked(images, annotations, classes, allow_outside)
    json_file = annotations
    if checked.repaired is not None:
        # Evaluators read a file. This one lives as long as the process, so the next run cannot find an old one.
        json_file = os.path.join(process_folder(), os.path.basename(annotations))
        with written_beside(json_file) as beside, open(beside, "w", encoding="utf-8") as file:
            json.dump(checked.repaired, file)
    _keep(name, annotations, checked)
    replace_dataset(
        name,
        functools.partial(_load, name, images, annotations, checked.classes, classes, allow_outside),
        {
            "json_file": json_file,
            "image_root": images,
            "evaluator_type": "coco",
            "thing_classes": checked.classes,
            "thing_dataset_id_to_contiguous_id": checked.category_ids,
            "has_masks": checked.has_masks,
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


def _keep(name: str, annotations: str, checked: CheckedCoco) -> None:
    _kept[name] = _Kept(_state(annotations), checked.classes, pickle.dumps(checked.dataset_dicts, -1))


def _state(path: str) -> tuple[int, int]:
    """What changes when the file does."""
    try:
        found = os.stat(path)
    except OSError:
        return 0, 0
    return found.st_mtime_ns, found.st_size


def _checked(images: str, annotations: str, classes: Sequence[str] | None, allow_outside: bool) -> CheckedCoco:
    checked = validate_coco(annotations, images, allow_outside=allow_outside)
    checked.report.raise_for_errors()
    return checked if classes is None else match_classes(checked, list(classes))


def _load(
    name: str,
    images: str,
    annotations: str,
    expected: list[str],
    classes: Sequence[str] | None,
    allow_outside: bool,
) -> list[dict]:
    """Return the data set's dicts: those that registering checked, or checked again after the file has changed."""
    if name not in _kept or _kept[name].state != _state(annotations):
        _keep(name, annotations, _checked(images, annotations, classes, allow_outside))
    if _kept[name].classes != expected:
        raise UserError(
            f"{annotations}: its categories have changed since {name} was registered (from {', '.join(expected)} to "
            f"{', '.join(_kept[name].classes)}); register it again"
        )
    return pickle.loads(_kept[name].dataset_dicts)


def check_registered(name: str) -> None:
    """Raise UserError unless a data set is registered under ``name``."""
    if name not in DatasetCatalog:
        raise UserError(
            f"there is no data set {name!r}; register it with --dataset NAME IMAGES ANNOTATIONS, or see "
            "'python -m adet_ext data list'"
        )


def num_classes_of(dataset_names: Sequence[str]) -> int:
    """Return how many thing classes the data sets have; 0 if none of them says so.

    Sets registered by a JSON file alone say so once they are loaded, which this does where it has to.

    Raises:
        UserError: a name is not registered, or the sets' classes differ.
    """
    classes: dict[str, list[str]] = {}
    for name in dataset_names:
        check_registered(name)
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

"""Register a data set in COCO's or VOC's format, for ``--dataset NAME IMAGES ANNOTATIONS`` and for scripts."""

import functools
import json
import os
import pickle
from collections.abc import Sequence
from typing import NamedTuple

from ..d2.data import DatasetCatalog, MetadataCatalog
from ..errors import UserError
from ..utils.files import written_beside
from .catalog import process_folder, replace_dataset
from .json_file import read_json
from .match_classes import match_classes
from .validate import CheckedCoco, log_registered, validate_coco
from .validate_voc import is_image_set
from .voc import register_voc_dataset

__all__ = ["check_registered", "count_without_mask", "num_classes_of", "refresh_dataset", "register_dataset"]


class _Set(NamedTuple):
    """The arguments of :func:`register_dataset`."""

    name: str
    images: str
    annotations: str
    classes: list[str] | None
    allow_outside: bool


class _Kept(NamedTuple):
    """What validation found, for later loads; pickled, because a data set's objects take five times as much."""

    state: tuple[int, ...]
    classes: list[str]
    metadata: dict
    dataset_dicts: bytes


_kept: dict[str, _Kept] = {}


def register_dataset(
    name: str, images: str, annotations: str, *, classes: Sequence[str] | None = None, allow_outside: bool = False
) -> list[str]:
    """Check a data set in COCO's or PASCAL VOC's format, register it, and return its class names.

    Class names and their number come from the file. Registering a name again replaces what it stood for. Training and
    evaluation read the same checked annotations. If the file changes, the next load and the next evaluation check it
    again.

    Args:
        name: its name in ``DATASETS.TRAIN`` and ``DATASETS.TEST``.
        images: the folder that the file names in the annotation file start from.
        annotations: COCO's JSON file; or, for VOC's format, the list of images, a text file such as
            ``ImageSets/Main/train.txt`` (see :func:`~adet_ext.data.voc.register_voc_dataset`, which has more options).
        classes: the class names of the model in their order, for example those of the training set. The file's
            categories are matched with them by name. None: those of the file, by ascending category id.
        allow_outside: accept image files outside ``images``.

    Raises:
        UserError: the set has errors, with a sentence for each kind, or a category that ``classes`` does not have.
    """
    if not name:
        raise UserError(f"a data set needs a name: --dataset NAME {images} {annotations}")
    if is_image_set(annotations):
        return register_voc_dataset(name, images, annotations, classes=classes, allow_outside=allow_outside)
    asked = _Set(name, images, annotations, None if classes is None else list(classes), allow_outside)
    kept, checked = _check(asked)
    _kept[name] = kept
    replace_dataset(name, functools.partial(_load, asked, kept.classes), kept.metadata)
    log_registered(name, images, annotations, checked)
    return checked.classes


def _check(asked: _Set) -> tuple[_Kept, CheckedCoco]:
    """Validate a set, write the copy that evaluators need if they need one, and return what to keep.

    Raises:
        UserError: see :func:`register_dataset`.
    """
    state = _state(asked.annotations)  # before reading, so that the next load notices a change during the check
    checked = validate_coco(asked.annotations, asked.images, allow_outside=asked.allow_outside)
    checked.report.raise_for_errors()
    if asked.classes is not None:
        checked = match_classes(checked, asked.classes)
    json_file = asked.annotations
    if checked.repaired is not None:
        # Evaluators read a file. This one is removed with the process, so the next run cannot find an old one.
        json_file = os.path.join(process_folder(), os.path.basename(asked.annotations))
        with written_beside(json_file) as beside, open(beside, "w", encoding="utf-8") as file:
            json.dump(checked.repaired, file)
    metadata = {
        "json_file": json_file,
        "image_root": asked.images,
        "evaluator_type": "coco",
        "thing_classes": checked.classes,
        "thing_dataset_id_to_contiguous_id": checked.category_ids,
        "has_masks": checked.has_masks,
    }
    return _Kept(state, checked.classes, metadata, pickle.dumps(checked.dataset_dicts, -1)), checked


def _state(path: str) -> tuple[int, ...]:
    """Return values that change when the file does, even if its size and its time are kept."""
    try:
        found = os.stat(path)
    except OSError:
        return ()
    return found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino


def _load(asked: _Set, expected: list[str]) -> list[dict]:
    """Return the data set's dicts: those that registering checked, or checked again if the file has changed."""
    _refresh(asked, expected)
    return pickle.loads(_kept[asked.name].dataset_dicts)


def refresh_dataset(name: str) -> None:
    """Check a set of :func:`register_dataset` again if its file has changed, and update its metadata.

    Sets that were registered in another way are left as they are: their files are read each time.

    Raises:
        UserError: the changed file has errors or other classes.
    """
    load = DatasetCatalog[name] if name in DatasetCatalog else None
    if isinstance(load, functools.partial) and load.func is _load:
        _refresh(*load.args)


def _refresh(asked: _Set, expected: list[str]) -> None:
    name = asked.name
    if name not in _kept or _kept[name].state != _state(asked.annotations):
        kept, _ = _check(asked)
        _kept[name] = kept
        metadata = MetadataCatalog.get(name)
        for key, value in kept.metadata.items() if kept.classes == expected else ():
            if metadata.get(key) != value:
                if key in metadata.as_dict():  # the catalog does not change what is there
                    delattr(metadata, key)
                setattr(metadata, key, value)
    if _kept[name].classes != expected:
        raise UserError(
            f"{asked.annotations}: its categories have changed since {name} was registered (from "
            f"{', '.join(expected)} to {', '.join(_kept[name].classes)}); register it again"
        )


def check_registered(name: str) -> None:
    """Raise UserError unless a data set is registered under ``name`` and its file, if it has changed, still fits."""
    if name not in DatasetCatalog:
        raise UserError(
            f"there is no data set {name!r}; register it with --dataset NAME IMAGES ANNOTATIONS, or see "
            "'python -m adet_ext data list'"
        )
    refresh_dataset(name)


def count_without_mask(name: str) -> tuple[int, int]:
    """Return how many annotations of a data set have no mask, and how many there are.

    They are counted in the file that evaluators compare with, or in the loaded data set if it names none.

    Raises:
        UserError: the file is missing or not JSON.
    """
    json_file = MetadataCatalog.get(name).get("json_file")
    if json_file:
        content = read_json(str(json_file))
        annotations = content.get("annotations") if isinstance(content, dict) else None
    else:
        annotations = [a for record in DatasetCatalog.get(name) for a in record.get("annotations", ())]
    masks = [a.get("segmentation") for a in annotations or () if isinstance(a, dict)]
    return sum(mask is None or not len(mask) for mask in masks), len(masks)  # an array has no truth value


def num_classes_of(dataset_names: Sequence[str]) -> int:
    """Return how many thing classes the data sets have, or 0 if their metadata do not say.

    The metadata of sets registered by a JSON file alone are complete after loading, so these are loaded here.

    Raises:
        UserError: a name is not registered, or the sets' classes differ.
    """
    classes: dict[str, list[str]] = {}
    for name in dataset_names:
        check_registered(name)
        metadata = MetadataCatalog.get(name)
        if metadata.get("thing_classes") is None and metadata.get("stuff_classes") is None:
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

"""Data sets in PASCAL VOC's format: VOC2007 and VOC2012 under Detectron2's names, and any other by its list of images.

Difficult objects are kept and flagged. The built-in names train on them, as Detectron2 does, so that a run means the
same on either engine; sets that are registered here leave them out of training by default, as the devkit means them.
Evaluation ignores them in either case.
"""

import functools
import os
import re
from collections.abc import Iterable, Sequence

from ..d2.data import DatasetCatalog, MetadataCatalog
from ..errors import UserError
from .catalog import replace_dataset
from .validate import CheckedCoco, log_registered
from .validate_voc import folder_of, validate_voc

__all__ = ["VOC_CLASSES", "check_voc_files", "register_voc_dataset", "registered_dicts"]

VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip

_BUILT_IN = {2007: ("trainval", "train", "val", "test"), 2012: ("trainval", "train", "val")}
_ANY_YEAR = 2012  # of sets that are none of VOC's: AP by its later definition


def register_voc_dataset(
    name: str,
    images: str,
    image_set: str,
    *,
    classes: Sequence[str] | None = None,
    use_difficult: bool = False,
    year: int | None = None,
    allow_outside: bool = False,
) -> list[str]:
    """Check a data set in VOC's format, register it, and return its class names.

    Registering a name again replaces what it stood for. The files are read again whenever the set is loaded.

    Args:
        name: what ``DATASETS.TRAIN`` and ``DATASETS.TEST`` call it.
        images: the folder of the image files, VOC's JPEGImages.
        image_set: the list of images, such as ``ImageSets/Main/train.txt``; ``Annotations`` is looked for in the
            folders above it.
        classes: the class names of the model in their order. None: the names in the files, sorted, which is VOC's own
            order where all of its classes are there.
        use_difficult: whether to train on difficult objects.
        year: chooses the definition of AP: over 11 points before 2010, over all points since. None: that of a folder
            VOC2007, VOC2012 and so on above the list, else 2012.
        allow_outside: accept image files outside ``images``.

    Raises:
        UserError: the set has errors, with a sentence for each kind.
    """
    if not name:
        raise UserError(f"a data set needs a name: --dataset NAME {images} {image_set}")
    read = functools.partial(_checked, image_set, images, use_difficult=use_difficult, allow_outside=allow_outside)
    checked = read(classes=classes)
    folder = folder_of(image_set) or ""
    known = re.fullmatch(r"VOC(\d{4})", os.path.basename(os.path.abspath(folder)))
    metadata = {
        "dirname": folder,
        "split": os.path.splitext(os.path.basename(image_set))[0],
        "year": year or (int(known[1]) if known else _ANY_YEAR),
        "image_set": image_set,
        "image_root": images,
        "evaluator_type": "pascal_voc",
        "thing_classes": checked.classes,
        "has_masks": False,
    }
    replace_dataset(name, functools.partial(_load, read, checked.classes), metadata)
    log_registered(name, images, image_set, checked)
    return checked.classes


def _checked(image_set: str, images: str, **options) -> CheckedCoco:
    checked = validate_voc(image_set, images, **options)
    checked.report.raise_for_errors()
    return checked


def _load(read, classes: list[str]) -> list[dict]:
    return read(classes=classes).dataset_dicts


def registered_dicts(name: str, check_files: bool = False) -> list[dict]:
    """Return the dicts of a registered set of evaluator type "pascal_voc", "difficult" in each annotation.

    They are read from the files that the metadata names, which serves Detectron2's own registrations too: those say
    nothing of difficulty.

    Args:
        check_files: also look for the image files.

    Raises:
        UserError: the metadata lacks what is needed, or the files have errors.
    """
    metadata = MetadataCatalog.get(name)
    missing = [key for key in ("dirname", "split", "thing_classes") if metadata.get(key) is None]
    if missing:
        raise UserError(
            f"data set {name} cannot be read as PASCAL VOC's: its metadata lacks {', '.join(missing)}; register it by "
            "adet_ext.data.register_voc_dataset"
        )
    folder = metadata.dirname
    image_set = metadata.get("image_set") or os.path.join(folder, "ImageSets", "Main", f"{metadata.split}.txt")
    images = metadata.get("image_root") or os.path.join(folder, "JPEGImages")
    options = {"classes": metadata.thing_classes, "use_difficult": True, "allow_outside": True}
    try:
        return _checked(image_set, images, folder=folder, check_files=check_files, **options).dataset_dicts
    except UserError as error:
        if name not in _built_in_names() or os.path.exists(image_set):
            raise
        raise UserError(f"{error}; {name} is read from the folder that DETECTRON2_DATASETS names") from error


def check_voc_files(names: Iterable[str]) -> None:
    """Check the files of those of the registered sets ``names`` that are of VOC's format.

    Detectron2's own reader raises whatever a broken file gives; this says what is wrong.

    Raises:
        UserError: naming the file.
    """
    for name in names:
        if MetadataCatalog.get(name).get("evaluator_type") == "pascal_voc":
            registered_dicts(name, check_files=True)


def _built_in_names() -> list[str]:
    return [f"voc_{year}_{split}" for year, splits in _BUILT_IN.items() for split in splits]


def _register_built_in() -> None:
    """Register VOC2007 and VOC2012 under the folder of data sets, as Detectron2 does.

    Where Detectron2 has done so, its registration stays. Only where the archives were unpacked as they are, to
    VOCdevkit/VOC2007, which Detectron2 does not look into, the name is given to that folder on either engine.
    """
    root = os.path.expanduser(os.getenv("DETECTRON2_DATASETS", "datasets"))
    for year, splits in _BUILT_IN.items():
        folder, unpacked = os.path.join(root, f"VOC{year}"), os.path.join(root, "VOCdevkit", f"VOC{year}")
        is_unpacked = os.path.isdir(unpacked) and not os.path.isdir(folder)
        for split in splits:
            name = f"voc_{year}_{split}"
            if name not in DatasetCatalog or is_unpacked:
                metadata = {
                    "thing_classes": list(VOC_CLASSES),
                    "dirname": unpacked if is_unpacked else folder,
                    "year": year,
                    "split": split,
                    "evaluator_type": "pascal_voc",
                }
                replace_dataset(name, functools.partial(registered_dicts, name, check_files=True), metadata)
            MetadataCatalog.get(name).has_masks = False


_register_built_in()

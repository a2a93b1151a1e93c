"""Register a data set under a name that may be taken, and make folders that live as long as the process."""

import atexit
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

from ..d2.data import DatasetCatalog, MetadataCatalog

__all__ = ["class_names_of", "model_classes_of", "name_of", "process_folder", "replace_dataset"]


def replace_dataset(name: str, load: Callable[[], list[dict]], metadata: dict) -> None:
    """Register ``load`` and ``metadata`` under ``name``, and forget what was registered there before.

    The catalogs refuse a second registration. It happens when a notebook cell runs twice, or when a module is imported
    under two names.
    """
    if name in DatasetCatalog:
        DatasetCatalog.remove(name)
    if name in MetadataCatalog:
        MetadataCatalog.remove(name)
    DatasetCatalog.register(name, load)
    MetadataCatalog.get(name).set(**metadata)


def process_folder() -> str:
    """Make a folder for this process alone. It is removed when the process ends, so its files are never stale."""
    folder, owner = tempfile.mkdtemp(prefix="adet_ext_"), os.getpid()

    def remove() -> None:
        if os.getpid() == owner:  # a forked child inherits this function, not the folder
            shutil.rmtree(folder, ignore_errors=True)

    atexit.register(remove)
    return folder


def class_names_of(metadata: Any, kind: str = "thing_classes") -> list[str]:
    """Return the class names of a data set's metadata, or [] if it has none."""
    return list(getattr(metadata, kind, None) or [])


def model_classes_of(metadata: Any) -> list[str]:
    """Return the names of the classes that a model of this data set tells apart, or [] if it has none."""
    semantic = getattr(metadata, "evaluator_type", None) in ("sem_seg", "video_sem_seg")
    return class_names_of(metadata, "stuff_classes" if semantic else "thing_classes")


def name_of(names: Sequence[str], index: int) -> str:
    """Return the name of a class, or ``class 7`` if there is no name for it."""
    return names[index] if 0 <= index < len(names) else f"class {index}"

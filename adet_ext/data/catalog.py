"""Registering a data set under a name that may be taken already, and files that live as long as the process."""

import atexit
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

from ..d2.data import DatasetCatalog, MetadataCatalog

__all__ = ["class_names_of", "name_of", "process_folder", "replace_dataset"]


def replace_dataset(name: str, load: Callable[[], list[dict]], metadata: dict) -> None:
    """Register ``load`` and ``metadata`` under ``name``; what was registered there before is forgotten.

    The catalogs refuse a second registration, which a notebook cell that runs twice, or an import under two
    names, would otherwise meet.
    """
    if name in DatasetCatalog:
        DatasetCatalog.remove(name)
    if name in MetadataCatalog:
        MetadataCatalog.remove(name)
    DatasetCatalog.register(name, load)
    MetadataCatalog.get(name).set(**metadata)


def process_folder() -> str:
    """Make a folder for this process alone, removed at its end: what is in it can never be stale."""
    folder, owner = tempfile.mkdtemp(prefix="adet_ext_"), os.getpid()

    def remove() -> None:
        if os.getpid() == owner:  # a forked child inherits this function, not the folder
            shutil.rmtree(folder, ignore_errors=True)

    atexit.register(remove)
    return folder


def class_names_of(metadata: Any, kind: str = "thing_classes") -> list[str]:
    """The class names a data set's metadata holds, or [] where it holds none (names are then numbers)."""
    return list(getattr(metadata, kind, None) or [])


def name_of(names: Sequence[str], index: int) -> str:
    """The name of a class; ``class 7`` where the names do not reach that far."""
    return names[index] if 0 <= index < len(names) else f"class {index}"

"""Looking image files up by one listing per folder, without opening any."""

import os

from ..d2.utils import PathManager

__all__ = ["leaves", "listing"]


def leaves(file_name: str) -> bool:
    """Whether the name leads out of the image folder."""
    path = os.path.normpath(file_name)
    return os.path.isabs(path) or path == ".." or path.startswith(".." + os.sep)


def listing(folder: str, listings: dict[str, set[str] | None]) -> set[str] | None:
    """Return the names in ``folder``, listed when first asked for and kept in ``listings``; None: no such folder."""
    if folder not in listings:
        try:
            listings[folder] = set(PathManager.ls(folder or "."))
        except OSError:
            listings[folder] = None
    return listings[folder]

"""Writing files so that a crash, a full disk or a wrong name never costs what was there before."""

import contextlib
import os
from collections.abc import Iterator

from ..errors import UserError

__all__ = ["make_folder", "written_beside"]


@contextlib.contextmanager
def written_beside(path: str) -> Iterator[str]:
    """Give a name beside ``path`` to write to; on leaving, rename it to ``path``, or remove it after an error.

    The name keeps the suffix of ``path``, because writers of pictures and videos choose their format by it.

    Raises:
        UserError: the file cannot be written; whatever was at ``path`` before is still there.
    """
    folder, name = os.path.split(path)
    stem, suffix = os.path.splitext(name)
    beside = os.path.join(folder, f".{stem}.{os.getpid()}.part{suffix}")
    try:
        yield beside
        os.replace(beside, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.remove(beside)
        if isinstance(error, OSError):
            raise UserError(f"{path}: cannot be written: {error.strerror or error}") from error
        raise


def make_folder(path: str) -> str:
    """Make the folder ``path`` where it is missing, check that files can be made in it, and return it.

    Raises:
        UserError: it cannot be made or written to.
    """
    try:
        os.makedirs(path or ".", exist_ok=True)
    except OSError as error:
        raise UserError(f"{path}: the folder cannot be made: {error.strerror or error}") from error
    if not os.access(path or ".", os.W_OK | os.X_OK):
        raise UserError(f"{path}: the folder cannot be written to")
    return path

"""The files of a feature cache in a folder: its header, its levels, how far it is, who writes it.

- ``features.json``: the header, a dict of format, fingerprint, dtype, items (N) and shapes. A level has one shape
  C x H x W where all items agree, else N.
- ``level0.bin``, ``level1.bin``, ...: the numbers of one level, item after item
- ``done.json``: how many items are on the disk

The header is written after the levels have their full size, and the number of items after their numbers are on the
disk. So whatever is found after a crash is either no cache yet, or can be gone on with.
"""

import contextlib
import hashlib
import json
import math
import os
import re
import shutil
from collections.abc import Callable, Iterator

import numpy as np

from ..errors import UserError
from ..utils.files import disk_problem, written_beside

try:
    import fcntl
except ImportError:  # Windows: two builds of one folder at once are not noticed there
    fcntl = None

__all__ = ["DTYPES", "check_size", "count", "create", "folder_for", "locked", "map_levels", "nbytes", "read_done"]
__all__ += ["read_header", "refuse_foreign", "refuse_other", "size_text", "write_done"]

DTYPES = {"float32": np.float32, "float16": np.float16}
_HEADER, _DONE, _LOCK = "features.json", "done.json", ".lock"
_OURS = re.compile(r"features\.json|done\.json|\.lock|level\d+\.bin|\..*\.part.*")
_PARTS = {"weights": "weights", "files": "images", "settings": "settings", "items": "number of items"}


def count(header: dict, level: str) -> int:
    """Return how many numbers a level has."""
    shapes = header["shapes"][level]
    return sum(map(math.prod, shapes)) if len(shapes) > 1 else header["items"] * math.prod(shapes[0])


def nbytes(header: dict) -> int:
    """Return the size of all levels in bytes."""
    return sum(count(header, level) for level in header["shapes"]) * np.dtype(DTYPES[header["dtype"]]).itemsize


def size_text(size: float) -> str:
    """Return a number of bytes for people."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            break
        size, unit = size / 1024, "TiB"
    return f"{size:.4g} {unit}"


def check_size(header: dict, limit: int, path: str | None, say: Callable[[str], None]) -> None:
    """Say how large the cache will be; raise UserError where that is above the limit or what the disk has."""
    size, items = nbytes(header), header["items"]
    cure = "Raise the limit, keep float16, or take fewer or smaller images"
    if size > limit:
        raise UserError(
            f"The feature cache of {items} items must be at most limit_bytes = {limit} ({size_text(limit)}); "
            f"got {size} ({size_text(size)}). {cure}."
        )
    if path is not None and size > (free := shutil.disk_usage(path).free):
        raise UserError(
            f"The feature cache of {items} items must fit on the disk at {path}; got {size_text(size)} and "
            f"{size_text(free)} free. Free some space or name another folder."
        )
    where = "in memory" if path is None else f"at {path}"
    say(f"feature cache of {items} items, {header['dtype']}: {size_text(size)} {where}")


def folder_for(path: str, wanted: dict, other: str) -> str:
    """Return ``path``, or a folder beside it where that has another cache and ``other`` is "beside"."""
    header = read_header(path)
    if other == "refuse" or header is None or not _differences(header, wanted):
        return path
    digest = hashlib.sha256(json.dumps(wanted, sort_keys=True).encode()).hexdigest()
    return f"{path.rstrip(os.sep)}-{digest[:12]}"


def read_header(path: str) -> dict | None:
    """Return the header; None where the folder has none.

    Raises:
        UserError: it cannot be read, or is not a header.
    """
    file = os.path.join(path, _HEADER)
    try:
        with open(file, encoding="utf-8") as stream:
            header = json.load(stream)
        dict(header["fingerprint"])
        counts = {len(shapes) for shapes in header["shapes"].values()}
        whole = header["format"] == 1 and counts <= {1, header["items"]} and nbytes(header) > 0
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise UserError(f"{file}: cannot be read as a cache's header ({error}). Remove the folder {path}.") from error
    if not whole:
        raise UserError(f"{file} must have format 1 and a shape for every item; it has not. Remove the folder {path}.")
    return header


def refuse_other(path: str, header: dict, wanted: dict) -> None:
    """Raise UserError where the cache in ``path`` was made from anything else than what is wanted."""
    different = _differences(header, wanted)
    if different:
        parts = ", ".join(_PARTS.get(part, part) for part in different)
        raise UserError(
            f"The feature cache at {path} must be of the same {parts} as are used now; it is of others. "
            "Name another folder, or remove this one."
        )


def _differences(header: dict, wanted: dict) -> list[str]:
    def flat(value: dict) -> dict:
        return {**value["fingerprint"], "dtype": value.get("dtype"), "items": value.get("items")}

    have, want = flat(header), flat({**header, **wanted})
    return sorted(part for part in have.keys() | want.keys() if have.get(part) != want.get(part))


def refuse_foreign(path: str) -> None:
    """Raise UserError where the folder, which has no header, has a file that no cache makes."""
    foreign = sorted(name for name in os.listdir(path) if not _OURS.fullmatch(name))
    if foreign:
        raise UserError(f"{path} must be a new folder or a feature cache; it has {foreign[0]}. Name another folder.")


def create(path: str, header: dict) -> None:
    """Make the levels' files at their full size, then write the header.

    Their space is reserved: a mapped file that finds the disk full later ends the process with a signal.
    """
    with contextlib.suppress(FileNotFoundError):
        os.remove(os.path.join(path, _DONE))
    itemsize = np.dtype(DTYPES[header["dtype"]]).itemsize
    for index, level in enumerate(header["shapes"]):
        file = _level_file(path, index)
        try:
            with open(file, "wb") as stream:
                size = count(header, level) * itemsize
                if hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(stream.fileno(), 0, size)
                else:
                    stream.truncate(size)
                os.fsync(stream.fileno())
        except OSError as error:
            raise UserError(f"{file}: cannot be written: {disk_problem(file, error) or error}") from error
    _write(path, _HEADER, header)


def map_levels(path: str, header: dict, mode: str) -> dict[str, np.memmap]:
    """Return the numbers of every level, mapped from its file; ``mode`` is "r" or "r+".

    Raises:
        UserError: a file is missing or has another size than the header says.
    """
    dtype, arrays = np.dtype(DTYPES[header["dtype"]]), {}
    for index, level in enumerate(header["shapes"]):
        file, need = _level_file(path, index), count(header, level) * dtype.itemsize
        have = os.path.getsize(file) if os.path.exists(file) else 0
        if have != need:
            raise UserError(f"{file} must have {need} bytes; got {have}. Remove the folder {path}.")
        arrays[level] = np.memmap(file, dtype, mode)
    return arrays


def read_done(path: str) -> int:
    """Return how many items are on the disk."""
    file = os.path.join(path, _DONE)
    try:
        with open(file, encoding="utf-8") as stream:
            return int(json.load(stream)["done"])
    except FileNotFoundError:
        return 0
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file}: cannot be read ({error}). Remove the folder {path}.") from error


def write_done(path: str, arrays: dict[str, np.memmap], done: int) -> None:
    """Bring the numbers to the disk, then the number of finished items."""
    for array in arrays.values():
        array.flush()
    _write(path, _DONE, {"done": done})


@contextlib.contextmanager
def locked(path: str, say: Callable[[str], None]) -> Iterator[None]:
    """Hold the folder for this process alone; wait, and say so, while another one has it. A kill gives it free."""
    with open(os.path.join(path, _LOCK), "a", encoding="utf-8") as stream:
        if fcntl is not None:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                say(f"feature cache at {path}: waiting for the process that makes it")
                fcntl.flock(stream, fcntl.LOCK_EX)
            except OSError:  # a network disk without locks
                pass
        yield


def _level_file(path: str, index: int) -> str:
    return os.path.join(path, f"level{index}.bin")


def _write(path: str, name: str, value: dict) -> None:
    with written_beside(os.path.join(path, name), durable=True) as beside, open(beside, "w", encoding="utf-8") as file:
        json.dump(value, file)
        file.flush()

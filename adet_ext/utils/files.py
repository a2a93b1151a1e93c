"""Write files so that a crash, a full disk or a wrong name does not destroy the old file."""

import contextlib
import errno
import hashlib
import os
import re
from collections.abc import Iterator

from ..errors import UserError

__all__ = ["disk_problem", "is_alive", "make_folder", "remove_remains", "sha256_of", "written_beside"]

_FULL = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}
# Names given by written_beside, and those of earlier versions.
_REMAINS = re.compile(r"\..+\.(?P<process>\d+)\.part(\.\w+)?|.+\.pth\.tmp|last_checkpoint\.tmp|config\.yaml\.part")


@contextlib.contextmanager
def written_beside(path: str, suffix: str | None = None, durable: bool = False) -> Iterator[str]:
    """Yield a name beside ``path`` to write to. Then rename the file to ``path``, or remove it after an error.

    Args:
        suffix: of the temporary name. None: that of ``path``, by which writers of pictures and videos choose their
            format. Give another one if an unfinished file must not look like a finished one.
        durable: whether the content must be on the disk before the file is renamed, to survive a loss of power.

    Raises:
        UserError: the file cannot be written. The old file is still at ``path``.
    """
    folder, name = os.path.split(path)
    stem, own = os.path.splitext(name)
    beside = os.path.join(folder, f".{stem}.{os.getpid()}.part{own if suffix is None else suffix}")
    try:
        yield beside
        if durable:
            with open(beside, "rb") as file:
                os.fsync(file.fileno())
        os.replace(beside, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.remove(beside)
        if isinstance(error, UserError) or not isinstance(error, Exception):
            raise
        problem = disk_problem(path, error)
        if problem or isinstance(error, OSError):
            raise UserError(f"{path}: cannot be written: {problem or error}") from error
        raise


def make_folder(path: str, key: str = "") -> str:
    """Make the folder ``path`` if it is missing, check that files can be written in it, and return it.

    Args:
        key: the config key or option that names the folder, for the error.

    Raises:
        UserError: it cannot be made or written to.
    """
    path = path or "."
    name = f"{key} is {path}, which" if key else f"{path}:"
    try:
        os.makedirs(path, exist_ok=True)
        probe = os.path.join(path, f".probe.{os.getpid()}.part")
        try:
            with open(probe, "wb") as file:
                file.write(bytes(4096))
        finally:
            with contextlib.suppress(OSError):
                os.remove(probe)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise UserError(f"{name} cannot be written to: {disk_problem(path, error) or error}") from error
    return path


def disk_problem(path: str, error: BaseException | None) -> str:
    """Return what ``error`` says about the disk or the folder of ``path``, which was being written, else "".

    The system's error may be the cause of a library's error: torch reports a full disk as a RuntimeError.
    """
    while error is not None and not (isinstance(error, OSError) and error.errno):
        error = error.__cause__ or error.__context__
    if error is None:
        return ""
    place = os.path.abspath(path)
    while not os.path.lexists(place):
        place = os.path.dirname(place)
    disk = place
    while not os.path.ismount(disk):
        disk = os.path.dirname(disk)
    if error.errno in _FULL:
        return f"the disk at {disk} is full. Free some space or name a folder on another disk"
    if error.errno == errno.EROFS:
        return f"the disk at {disk} is read-only. Name a folder on another disk"
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"this user may not write to {place}. Change its permissions or name another folder"
    if error.errno in (errno.EEXIST, errno.ENOTDIR):
        return f"{place} is a file. Name a folder"
    if error.errno == errno.EFBIG:
        return f"a file would be larger than the limit of {disk} or of this process (see ulimit -f). Raise the limit"
    if error.errno == errno.EIO:
        return f"the disk at {disk} reports an input/output error"
    return ""


def sha256_of(path: str) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def remove_remains(folder: str) -> None:
    """Remove the unfinished files that killed processes left in ``folder``."""
    for name in os.listdir(folder):
        match = _REMAINS.fullmatch(name)
        if match and not (match["process"] and _is_another(int(match["process"]))):
            with contextlib.suppress(OSError):
                os.remove(os.path.join(folder, name))


def _is_another(process: int) -> bool:
    # If it is this process's number, an earlier process had it: this one has not written anything yet.
    return process != os.getpid() and is_alive(process)


def is_alive(process: int) -> bool:
    """Return whether there is a process of this number on this machine."""
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # another user's
        return True
    return True

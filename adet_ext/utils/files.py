"""Write files so that a crash, a full disk or a wrong name never costs what was there before."""

import contextlib
import errno
import os
import re
from collections.abc import Iterator

from ..errors import UserError

__all__ = ["disk_problem", "is_alive", "make_folder", "remove_remains", "written_beside"]

_FULL = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}
# Names given by written_beside, and those of earlier versions.
_REMAINS = re.compile(r"\..+\.(?P<process>\d+)\.part(\.\w+)?|.+\.pth\.tmp|last_checkpoint\.tmp|config\.yaml\.part")


@contextlib.contextmanager
def written_beside(path: str, suffix: str | None = None, durable: bool = False) -> Iterator[str]:
    """Give a name beside ``path`` to write to; on leaving, rename it to ``path``, or remove it after an error.

    Args:
        suffix: of the name beside. None: that of ``path``, because writers of pictures and videos choose their format
            by it. Give another one where a half-written file must not look like a whole one.
        durable: whether the content must be on the disk before the rename, so that it survives a loss of power.

    Raises:
        UserError: the file cannot be written; whatever was at ``path`` before is still there.
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
    """Make the folder ``path`` where it is missing, check that files can be written in it, and return it.

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
    """Return what ``error``, met while ``path`` was written, says about the disk or the folder; "" for other errors.

    The error of the system may be the cause of a library's own: torch reports a full disk as a RuntimeError.
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


def remove_remains(folder: str) -> None:
    """Remove the half-written files that killed processes left in ``folder``."""
    for name in os.listdir(folder):
        match = _REMAINS.fullmatch(name)
        if match and not (match["process"] and _is_another(int(match["process"]))):
            with contextlib.suppress(OSError):
                os.remove(os.path.join(folder, name))


def _is_another(process: int) -> bool:
    # This process's number was an earlier one's: this one has not begun to write.
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

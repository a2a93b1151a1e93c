"""A lock on a file's name, which the system opens again when the process that holds it ends, however it ends."""

import contextlib
import os
import socket

from ..errors import UserError
from .files import disk_problem, is_alive

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None
    import msvcrt

__all__ = ["FileLock", "holder"]

# The system's lock is between processes; within one, this is.
_HELD: set[str] = set()


class FileLock:
    """Holds ``path`` from its construction to :meth:`close`. The file names the process; it is removed at the end.

    The lock is the process's own: those forked from it do not have it, and so do not keep it when it is killed.

    Args:
        path: of the lock file, which need not exist.
        what: the sentence of the refusal, with ``{holder}`` for the process that holds the lock.

    Raises:
        UserError: the lock is taken, or the file cannot be written.
    """

    def __init__(self, path: str, what: str = "it is in use by {holder}. Wait for it, or stop it"):
        self.path, self._key = path, os.path.realpath(path)
        if self._key in _HELD:
            raise UserError(what.replace("{holder}", "this process"))
        while True:
            try:
                self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
            except OSError as error:
                raise UserError(f"{path}: cannot be written: {disk_problem(path, error) or error}") from error
            if not _try(self._file):
                os.close(self._file)
                raise UserError(what.replace("{holder}", holder(path) or "another process"))
            if self._is_at_path():
                break
            os.close(self._file)  # its holder removed it between our opening and locking it
        _HELD.add(self._key)
        os.ftruncate(self._file, 0)
        os.write(self._file, f"{os.getpid()} {socket.gethostname()}\n".encode())

    def _is_at_path(self) -> bool:
        try:
            return os.path.samestat(os.fstat(self._file), os.stat(self.path))
        except FileNotFoundError:
            return False

    def close(self) -> None:
        """Let go of the lock."""
        if self._key in _HELD:
            _HELD.discard(self._key)
            if fcntl:  # removed before it is unlocked; Windows removes no open file
                with contextlib.suppress(OSError):
                    os.remove(self.path)
            os.close(self._file)
            if not fcntl:
                with contextlib.suppress(OSError):
                    os.remove(self.path)


def _try(file: int) -> bool:
    """Lock an open file; False where another process has. A disk that knows no locks gives them to everybody."""
    try:
        if fcntl:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        else:
            os.lseek(file, 1 << 30, os.SEEK_SET)  # a byte far behind the text, which others may read
            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
            os.lseek(file, 0, os.SEEK_SET)
    except (BlockingIOError, PermissionError):
        return False
    except OSError:
        return True
    return True


def holder(path: str) -> str:
    """Return which process, by the file ``path``, holds the lock: "process 7", "process 7 on HOST"; "" where none does.

    A process of another machine counts as alive.
    """
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            process, _, host = file.read().strip().partition(" ")
    except OSError:
        return ""
    if not process.isdigit():
        return ""
    if host and host != socket.gethostname():
        return f"process {process} on {host}"
    return f"process {process}" if is_alive(int(process)) else ""

"""The journal of a search: JSON lines, a header and one line per architecture, safe against a kill at any byte.

The header has ``format`` and what makes the search what it is: space, sampler, settings, seed, round size. Line i + 1
is the architecture of index i::

    {"index": i, "tokens": [...], "reward": number or null, "status": "done" | "rejected" | "failed" | "repeated",
     "error": "", "same_as": index or null, "metrics": {}, "scores": [], "stopped": false, "graph": {}, "cost": {}}

Everything but ``cost`` is the same whatever evaluates, and however often the search was killed.

A line is written whole and flushed to the disk before anything follows from it. Evaluations that finish before an
earlier one of their round wait in a side file, ``<journal>.waiting``, so that a kill loses no finished one.
"""

import contextlib
import hashlib
import json
import logging
import os
from typing import Any, NamedTuple

from ..errors import UserError
from ..utils.files import disk_problem, make_folder, remove_remains, written_beside
from ..utils.lock import FileLock

__all__ = ["FORMAT", "STATUSES", "Journal", "Recorded", "first_difference", "read_journal"]

logger = logging.getLogger(__name__)

FORMAT = 1
STATUSES = ("done", "rejected", "failed", "repeated")


class Recorded(NamedTuple):
    """What a journal holds: the header, and the lines of the architectures in order."""

    header: dict
    entries: list[dict]


def read_journal(path: str) -> Recorded:
    """Read a journal, also one that is being written: a last line that is not whole is left out.

    Raises:
        UserError: the file is missing, is no journal, or has a broken line before the last.
    """
    lines, _ = _whole_lines(path, _read(path))
    if not lines:
        raise UserError(f"{path}: must be the journal of a search; it has no whole line. Name another file.")
    return Recorded(_header(path, lines[0]), _entries(path, lines[1:]))


def first_difference(before: Any, now: Any, name: str = "") -> str:
    """Return where two JSON values first differ, as "settings.depth is 3 in the journal and 4 now"; "" if nowhere."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in [*before, *(key for key in now if key not in before)]:
            here = f"{name}.{key}" if name else key
            if key not in before or key not in now:
                return _difference(here, before.get(key, _MISSING), now.get(key, _MISSING))
            if found := first_difference(before[key], now[key], here):
                return found
        return ""
    if isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        found = (first_difference(x, y, f"{name}[{i}]") for i, (x, y) in enumerate(zip(before, now)))
        return next(filter(None, found), "")
    # 1 and True are equal in Python, not in JSON; 1 and 1.0 are the same number in both.
    same = before == now and isinstance(before, bool) == isinstance(now, bool)
    return "" if same else _difference(name, before, now)


_MISSING = object()


def _difference(name: str, before: Any, now: Any) -> str:
    def text(value: Any) -> str:
        if value is _MISSING:
            return "missing"
        text = json.dumps(value)
        return text if len(text) <= 80 else text[:77] + "..."

    return f"{name} is {text(before)} in the journal and {text(now)} now"


class Journal:
    """A journal opened to be written, which no one else may write meanwhile.

    Opening changes nothing but a torn last line, which is cut off. :meth:`begin` writes the header.

    Attributes:
        header: None where the journal is new.
        entries: the lines of architectures so far.

    Raises:
        UserError: another search writes it, it is no journal, it is broken, or its folder cannot be written to.
    """

    def __init__(self, path: str):
        self.path = path
        make_folder(os.path.dirname(path))
        refusal = f"{path}: must be written by one search at a time; {{holder}} writes it. Wait for it, or stop it."
        self._lock = FileLock(path + ".lock", refusal)
        try:
            remove_remains(os.path.dirname(path) or ".")
            data = _read(path) if os.path.lexists(path) else b""
            lines, length = _whole_lines(path, data)
            if data and not lines:
                raise UserError(f"{path}: must be the journal of a search; it has no whole line. Name another file.")
            self.header = _header(path, lines[0]) if lines else None
            self.entries = _entries(path, lines[1:])
            self._hash, self._digests = hashlib.sha256(), []
            for line in data[:length].split(b"\n")[:-1]:
                self._count(line + b"\n")
            if length < len(data):
                logger.warning("%s: its last line was cut off in the middle; it is dropped", path)
                os.truncate(path, length)
        except BaseException:
            self._lock.close()
            raise
        self._lines: _LineFile | None = None
        self._waiting: _LineFile | None = None

    def check(self, header: dict) -> None:
        """Raise UserError, with the first difference, where the journal has another header."""
        header = json.loads(_dump({"format": FORMAT, **header}))  # tuples become lists
        if self.header is not None and (difference := first_difference(self.header, header)):
            raise UserError(
                f"{self.path}: must be the journal of this very search to be gone on with; {difference}. "
                "Give the same settings, or another folder."
            )

    def begin(self, header: dict) -> None:
        """Write the header of a new journal, or :meth:`check` it; lines can then be appended."""
        self.check(header)
        if self.header is None:
            line = _dump({"format": FORMAT, **header})
            with written_beside(self.path, suffix=".part", durable=True) as beside, open(beside, "wb") as file:
                file.write(line)
                file.flush()
            self.header = json.loads(line)
            self._count(line)
        self._lines = _LineFile(self.path)

    def append(self, entry: dict) -> None:
        """Write the line of the next architecture; it is on the disk when this returns."""
        if entry["index"] != len(self.entries):
            raise ValueError(f"the next line has index {len(self.entries)}; got {entry['index']}")
        self._count(self._lines.append(entry))
        self.entries.append(entry)

    def digest(self, count: int) -> str:
        """Return a digest of the header and the first ``count`` lines of architectures."""
        return self._digests[count]

    def _count(self, line: bytes) -> None:
        self._hash.update(line)
        self._digests.append(self._hash.hexdigest())

    # Evaluations that wait for an earlier one ------------------------------------------------------------------------

    @property
    def _side(self) -> str:
        return self.path + ".waiting"

    def waiting(self) -> dict[int, dict]:
        """Return the lines that wait, by their index. A side file of another journal is left aside."""
        if not os.path.isfile(self._side):
            return {}
        lines, length = _parse(_read(self._side))
        if not lines or lines[0] != {"journal": self.digest(0)}:
            logger.warning("%s: belongs to another journal; it is not used", self._side)
            os.remove(self._side)
            return {}
        os.truncate(self._side, length)
        return {line["index"]: line for line in lines[1:] if line.get("index", -1) >= len(self.entries)}

    def wait(self, entry: dict) -> None:
        """Keep the line of an architecture that an earlier one has to come before."""
        if self._waiting is None:
            self._waiting = _LineFile(self._side)
            if not self._waiting.size():
                self._waiting.append({"journal": self.digest(0)})
        self._waiting.append(entry)

    def round_complete(self) -> None:
        """Remove the side file: no architecture waits."""
        self._close_waiting()
        with contextlib.suppress(FileNotFoundError):
            os.remove(self._side)

    def _close_waiting(self) -> None:
        if self._waiting is not None:
            self._waiting.close()
            self._waiting = None

    def close(self) -> None:
        """Let another search have the journal."""
        self._close_waiting()
        if self._lines is not None:
            self._lines.close()
            self._lines = None
        self._lock.close()

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class _LineFile:
    """A file that is only appended to: each line with one write, on the disk before :meth:`append` returns."""

    def __init__(self, path: str):
        self.path = path
        try:
            self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666)
        except OSError as error:
            raise UserError(f"{path}: cannot be written: {disk_problem(path, error) or error}") from error

    def size(self) -> int:
        return os.fstat(self._file).st_size

    def append(self, value: dict) -> bytes:
        """Write ``value`` and return its line; UserError, with the file as before, where the disk takes no more."""
        line, before = _dump(value), self.size()
        try:
            written = os.write(self._file, line)
            if written < len(line):  # a full disk takes what it can; the next write says why
                written += os.write(self._file, line[written:])
            if written < len(line):
                raise OSError("the disk took only a part of a line")
            os.fsync(self._file)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, before)
            raise UserError(f"{self.path}: cannot be written: {disk_problem(self.path, error) or error}") from error
        return line

    def close(self) -> None:
        os.close(self._file)


def _dump(value: dict) -> bytes:
    return json.dumps(value, allow_nan=False).encode() + b"\n"


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error


def _parse(data: bytes) -> tuple[list[dict], int]:
    """Return the JSON objects up to the first line that is none, and how many bytes they take."""
    values, length = [], 0
    for line in data.split(b"\n")[:-1]:
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            break
        if not isinstance(value, dict):
            break
        values.append(value)
        length += len(line) + 1
    return values, length


def _whole_lines(path: str, data: bytes) -> tuple[list[dict], int]:
    """As :func:`_parse`; UserError where more than one line is left."""
    values, length = _parse(data)
    if b"\n" in data[length:].rstrip(b"\n"):
        place = f"line {len(values) + 1} is not JSON" if values else "it is not made of JSON lines"
        raise UserError(f"{path}: must be the journal of a search; {place}. Restore it, or name another file.")
    return values, length


def _header(path: str, line: dict) -> dict:
    if line.get("format") != FORMAT:
        raise UserError(
            f"{path}: must be the journal of a search, of format {FORMAT}; got {line.get('format', 'no format')!r}. "
            "Name another file."
        )
    return line


def _entries(path: str, lines: list[dict]) -> list[dict]:
    for index, line in enumerate(lines):
        reward = line.get("reward")
        good = line.get("index") == index and isinstance(line.get("tokens"), list) and line.get("status") in STATUSES
        if not good or not (reward is None or isinstance(reward, (int, float))):
            raise UserError(f"{path}: line {index + 2} must be architecture {index}. Restore it, or name another file.")
    return lines

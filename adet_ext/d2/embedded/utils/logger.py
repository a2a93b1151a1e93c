"""Logging as Detectron2 formats it: colored on the terminal, plain in ``log.txt``, one file per process."""

import functools
import logging
import os
import sys
from typing import Any

from tabulate import tabulate
from termcolor import colored

from .file_io import PathManager

_PACKAGE = "adet_ext"
_ENGINE = "adet_ext.d2.embedded"
_DATE_FORMAT = "%m/%d %H:%M:%S"
_PLAIN = logging.Formatter("[%(asctime)s] %(name)s %(levelname)s: %(message)s", datefmt=_DATE_FORMAT)


class _TerminalFormatter(logging.Formatter):
    """Shorten logger names, and color the level of warnings and errors."""

    def __init__(self, root_name: str, abbreviation: str):
        super().__init__(colored("[%(asctime)s %(name)s]: ", "green") + "%(message)s", datefmt=_DATE_FORMAT)
        self._short = [(f"{_ENGINE}.", "d2."), (f"{root_name}.", f"{abbreviation}." if abbreviation else "")]

    def formatMessage(self, record: logging.LogRecord) -> str:
        full_name = record.name
        for prefix, short in self._short:
            if record.name.startswith(prefix):
                record.name = short + record.name[len(prefix) :]
                break
        text = super().formatMessage(record)
        record.name = full_name  # the file's handler comes next and writes the full name
        if record.levelno >= logging.WARNING:
            text = f"{colored(record.levelname, 'red', attrs=['bold'])} {text}"
        return text


@functools.cache
def _log_file(path: str) -> logging.Handler:
    """Return the handler of a file, one for all loggers."""
    PathManager.mkdirs(os.path.dirname(path) or ".")
    handler = logging.FileHandler(path)
    handler.setFormatter(_PLAIN)
    return handler


def setup_logger(
    output: str | None = None,
    distributed_rank: int = 0,
    *,
    color: bool = True,
    name: str = _PACKAGE,
    abbrev_name: str | None = None,
) -> logging.Logger:
    """Make logger ``name`` write to the terminal (first process only) and to a file (every process).

    Args:
        output: a file ending in ``.txt`` or ``.log``, or a folder, which gets ``log.txt``; other
            processes than the first append ``.rank1`` and so on. None writes no file.
        abbrev_name: replaces ``name`` on the terminal; "" drops it.

    Another call adds only what is new, such as another file.
    """
    logger = logging.getLogger(name)
    logger.setLevel(logging.DEBUG)
    logger.propagate = False

    if distributed_rank == 0:
        terminal = next((h for h in logger.handlers if getattr(h, "_is_terminal", False)), None)
        if terminal is None:
            terminal = logging.StreamHandler(sys.stdout)
            terminal._is_terminal = True
            logger.addHandler(terminal)
        terminal.setStream(sys.stdout)  # it may have been replaced, and the old one closed
        short = name if abbrev_name is None else abbrev_name
        terminal.setFormatter(_TerminalFormatter(name, short) if color else _PLAIN)

    if output is not None:
        path = output if output.endswith((".txt", ".log")) else os.path.join(output, "log.txt")
        if distributed_rank > 0:
            path = f"{path}.rank{distributed_rank}"
        if _log_file(path) not in logger.handlers:
            logger.addHandler(_log_file(path))
    return logger


def create_small_table(small_dict: dict[str, Any]) -> str:
    """Return a table with the dictionary's keys and one row of values."""
    return tabulate(
        [list(small_dict.values())],
        headers=list(small_dict),
        tablefmt="pipe",
        floatfmt=".3f",
        stralign="center",
        numalign="center",
    )

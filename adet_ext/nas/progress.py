"""The progress line of a search: how many, how fast, the best so far, the time left."""

import contextlib
import logging
import math
import sys
import time
from collections.abc import Iterator

from tqdm import tqdm

from ..utils.durations import duration

__all__ = ["Progress", "best_of", "say", "spent", "warnings_above"]


def spent(entries: list[dict]) -> int:
    """Return how many architectures count: all that were not rejected."""
    return sum(entry["status"] != "rejected" for entry in entries)


def best_of(entries: list[dict]) -> dict | None:
    """Return the evaluated architecture with the highest reward, the first of equals; None where there is none."""
    return max((entry for entry in entries if entry["status"] == "done"), key=lambda x: x["reward"], default=None)


def say(sentence: str) -> None:
    """Print on the standard error, above the progress line."""
    tqdm.write(sentence, file=sys.stderr)


@contextlib.contextmanager
def warnings_above() -> Iterator[None]:
    """Have the search's warnings printed by :func:`say`, unless the program has set up logging."""
    logger = logging.getLogger(__package__)
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: say(record.getMessage())
    if logger.hasHandlers():
        yield
        return
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


class Progress:
    """A line on the standard error.

    Args:
        entries: of the journal that is gone on with.
        budget: architectures in all; None without a limit.
        hours: that this run may take; None without a limit.
    """

    def __init__(self, entries: list[dict], budget: int | None = None, hours: float | None = None):
        self._start, self._budget = time.monotonic(), budget
        self._end = math.inf if hours is None else self._start + 3600 * hours
        self._before = self._count = spent(entries)
        self._best = best_of(entries)
        # {n}, not tqdm's rate: it counts in seconds. A log that captures the line gets one a second at most.
        form = "search: {n}/{total} |{bar}| {elapsed}{postfix}" if budget else "search: {n} in {elapsed}{postfix}"
        self._bar = tqdm(
            total=budget, initial=self._count, bar_format=form, mininterval=1.0, dynamic_ncols=True, file=sys.stderr
        )

    def add(self, entry: dict) -> None:
        """Count a line of the journal."""
        if entry["status"] == "rejected":
            return
        self._count += 1
        if entry["status"] == "done" and (self._best is None or entry["reward"] > self._best["reward"]):
            self._best = entry
        if self._bar.total is not None:  # the last round may go beyond the budget
            self._bar.total = max(self._bar.total, self._count)
        self._bar.set_postfix_str(self.text(), refresh=False)
        self._bar.update()

    def text(self) -> str:
        """Return rate, best and time left."""
        now = time.monotonic()
        new = self._count - self._before
        rate = new / max(now - self._start, 1e-9)
        left = self._end - now
        if self._budget and rate:
            left = min(left, max(0, self._budget - self._count) / rate)
        parts = [f"{3600 * rate:.0f} an hour"]
        parts += [f"best {self._best['reward']:.4g}"] if self._best else []
        parts += [f"{duration(max(0, left))} left"] if math.isfinite(left) else []
        return ", ".join(parts)

    def close(self) -> None:
        """Leave the line as it is."""
        self._bar.close()

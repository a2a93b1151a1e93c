"""Read ``metrics.json``, the log of a training in Detectron2's format: one JSON object per line.

A run that was killed and resumed may write some iterations twice and leave half a line; both are handled.
"""

import json
import os
import re
from collections.abc import Sequence
from typing import Any

from ..errors import UserError

__all__ = ["EVALUATED", "Metrics"]

EVALUATED = {"segm": "mask", "bbox": "box"}
_RESULT = re.compile(r"^(?:(?P<dataset>.+)/)?(?P<task>bbox|segm|panoptic_seg|sem_seg)/(?P<name>[^/]+)$")


class Metrics:
    """The contents of one ``metrics.json``.

    Attributes:
        rows: one dict per iteration with everything written for it, in order; a later write wins.
        iterations: the number of iterations of training.
        skipped: the number of lines that could not be read.
    """

    def __init__(self, path: str):
        """Read ``path``; raise UserError if it is missing or has no metrics."""
        if not os.path.isfile(path):
            raise UserError(f"{path} must exist; got no such file. A training with this output folder writes it")
        rows: dict[int, dict[str, Any]] = {}
        self.skipped = 0
        with open(path, encoding="utf-8", errors="replace") as file:
            for line in filter(str.strip, file):
                try:
                    row = json.loads(line)
                    rows.setdefault(int(row["iteration"]), {}).update(row)
                except (ValueError, KeyError, TypeError):
                    self.skipped += 1
        if not rows:
            raise UserError(f"{path} must have metrics; got none. A training writes them from its 20th iteration on")
        self.rows = [rows[iteration] for iteration in sorted(rows)]
        trained = [row["iteration"] for row in self.rows if "total_loss" in row] or [self.rows[-1]["iteration"]]
        self.iterations = trained[-1] + 1

    def series(self, key: str) -> tuple[list[int], list[float]]:
        """Return after how many iterations ``key`` was written, and its values."""
        # The evaluation after the last iteration is logged as one iteration more.
        pairs = [
            (min(row["iteration"] + 1, self.iterations), row[key])
            for row in self.rows
            if isinstance(row.get(key), (int, float))
        ]
        return [x for x, _ in pairs], [y for _, y in pairs]

    def losses(self) -> list[str]:
        """Return the names of the losses: ``total_loss`` first, then every ``loss_*`` in the order of their names."""
        names = {key for row in self.rows for key in row if key.startswith("loss_")}
        total = ["total_loss"] if any("total_loss" in row for row in self.rows) else []
        return total + sorted(names)

    def results(self) -> dict[str, dict[str, dict[str, float]]]:
        """Return the last evaluation: data set ("" if only one was evaluated) -> task -> name -> value."""
        found: dict[str, dict[str, dict[str, float]]] = {}
        for row in self.rows:
            for key, value in row.items():
                match = _RESULT.match(key)
                if match and isinstance(value, (int, float)):
                    task = found.setdefault(match["dataset"] or "", {}).setdefault(match["task"], {})
                    task[match["name"]] = value
        return found

    def seconds(self) -> float:
        """Sum the time of training iterations, without evaluation: each logged time counts for those since the last."""
        total, before = 0.0, 0
        for iteration, time in zip(*self.series("time")):
            total += time * (iteration - before)
            before = iteration
        return total

    def seconds_per_iteration(self) -> float:
        """Return the median of the logged times of an iteration; 0 if none was logged."""
        times = sorted(self.series("time")[1])
        return times[len(times) // 2] if times else 0.0


def per_class(result: dict[str, float]) -> dict[str, float]:
    """Return the AP of each class in one task's results, by class name."""
    return {name[3:]: value for name, value in result.items() if name.startswith("AP-")}


def overall(result: dict[str, float], names: Sequence[str]) -> list[float | None]:
    """Return the values of ``names`` in one task's results; None if absent or NaN."""
    return [value if (value := result.get(name)) is not None and value == value else None for name in names]

"""Paired rounds: every contestant once per round, in alternating order, so that a slow minute affects all equally."""

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import UserError

__all__ = ["Partner", "Spread", "ratios", "run_rounds", "spread"]


@dataclass
class Partner:
    """A contestant in a process of its own; see :mod:`adet_ext.benchmark.worker`."""

    label: str
    config: str
    engine: str
    opts: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    rounds: list[dict[str, float]] = field(default_factory=list)
    process: subprocess.Popen | None = None

    def start(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "adet_ext.benchmark.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "ADET_EXT_ENGINE": self.engine},
        )

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """Send a request and wait for the answer.

        Raises:
            UserError: the request failed, or the process ended.
        """
        try:
            self.process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            status = self.process.wait()
            raise UserError(f"{self.label} ended with status {status} on {do!r}; see its output above")
        answer = json.loads(line)
        if "error" in answer:
            raise UserError(f"{self.label}: {answer['error']}")
        return answer

    def stop(self) -> None:
        if self.process is not None:
            self.process.stdin.close()
            try:
                self.process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


@dataclass(frozen=True)
class Spread:
    """Median, quartiles, minimum, and 90th and 99th percentile of a series."""

    median: float
    lower: float
    upper: float
    least: float
    p90: float
    p99: float


def spread(values: Sequence[float]) -> Spread:
    """Return the spread of a series; a single value is all of it."""
    if len(values) == 1:
        return Spread(*[values[0]] * 6)
    lower, median, upper = statistics.quantiles(values, n=4, method="inclusive")
    percentiles = statistics.quantiles(values, n=100, method="inclusive")
    return Spread(median, lower, upper, min(values), percentiles[89], percentiles[98])


def ratios(times: Sequence[float], baseline: Sequence[float]) -> Spread:
    """Return the spread of the quotients of ``times`` and ``baseline``, round by round."""
    return spread([mine / theirs for mine, theirs in zip(times, baseline, strict=True)])


def run_rounds(
    partners: Sequence[Partner], rounds: int, warmup: int, tick: Callable[[], None], request: str = "time"
) -> None:
    """Time ``rounds`` rounds into every partner's ``rounds``; ``tick`` is called after each.

    Args:
        request: "time", a pass through the model, or "steps", an image's whole way from its file to a drawing.
    """
    for i in range(-warmup, rounds):
        order = list(partners) if i % 2 == 0 else list(reversed(partners))
        for partner in order:
            result = partner.ask(request)
            if i >= 0:
                partner.rounds.append(result)
        tick()

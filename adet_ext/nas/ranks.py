"""How well one reward ranks architectures beside another."""

import math
from collections.abc import Sequence

import numpy as np

from ..errors import UserError
from .journal import Recorded

__all__ = ["rank_correlation", "spread"]


def rank_correlation(first: Sequence[float], second: Sequence[float]) -> float:
    """Return Spearman's coefficient; equal values share the mean of their ranks. NaN where all of one are equal."""
    ranks = [_ranks(np.asarray(values, float)) for values in (first, second)]
    if not all(np.ptp(rank) for rank in ranks):
        return math.nan
    return float(np.corrcoef(*ranks)[0, 1])


def _ranks(values: np.ndarray) -> np.ndarray:
    """Return the mean rank of each value: the number of smaller ones, and half of the equal ones."""
    return (values[None] < values[:, None]).sum(1) + ((values[None] == values[:, None]).sum(1) - 1) / 2


def spread(recorded: Recorded, count: int) -> list[dict]:
    """Return the entries of ``count`` architectures at even steps of the ranking, the worst and the best among them.

    Raises:
        UserError: a journal has fewer that were evaluated in full; names --count.
    """
    done = [entry for entry in recorded.entries if entry["status"] == "done" and not entry["stopped"]]
    if not 2 <= count <= len(done):
        raise UserError(f"--count must be 2 to {len(done)}, the architectures trained in full; got {count}. Change it")
    done.sort(key=lambda entry: entry["reward"])
    return [done[round(place)] for place in np.linspace(0, len(done) - 1, count)]

"""Strict fairness (Chu, Zhang, Xu and Li, "FairNAS", 2019): every choice of every decision equally often."""

import math
import random

from .space import Space

__all__ = ["fair_paths", "fair_period"]


def fair_period(space: Space) -> int:
    """Return how many paths it takes to draw every choice of every decision equally often: the least common multiple
    of the numbers of choices."""
    return math.lcm(*(len(decision.choices) for decision in space.decisions))


def fair_paths(space: Space, source: random.Random) -> list[tuple[int, ...]]:
    """Return a period of token lists; each decision draws random permutations of its choices, one after the other."""
    period, columns = fair_period(space), []
    for decision in space.decisions:
        count = len(decision.choices)
        columns.append([token for _ in range(period // count) for token in source.sample(range(count), count)])
    return list(zip(*columns))

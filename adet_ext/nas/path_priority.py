"""Path-priority greedy search: points for the choices of good architectures, and the choices with most points.

Source: Wu et al., "Auto-Panoptic", 2020, and its released code.
"""

import math
from collections.abc import Sequence

from .fair_paths import fair_paths, fair_period
from .samplers import accepted, check_whole, draws, uniform
from .space import Space

__all__ = ["PathPriority"]


class PathPriority:
    """Draws cycles of fair paths, ranks each cycle, and then proposes what the points say.

    A cycle has every choice of every decision equally often (:func:`~.fair_paths.fair_paths`). When all of it was told,
    the best of its n architectures gives n - 1 points to each of its choices, the next n - 2, the last 0; one that
    failed gives 0. After ``cycles`` cycles, the ``ranks`` next proposals have for each decision the choice with most
    points, that with the second most, and so on. Then cycles go on. A path that the space rejects is replaced by a
    uniform draw.

    Args:
        cycles: 5 in the paper.
        ranks: 3 in the released code.
    """

    def __init__(self, space: Space, seed: int, *, cycles: int = 5, ranks: int = 3):
        self.space, self.seed, self.asked, self.told = space, check_whole("seed", seed, 0), 0, 0
        self.cycles, self.ranks = check_whole("cycles", cycles, 1), check_whole("ranks", ranks, 0)
        self.period = fair_period(space)
        self.points = [[0] * len(decision.choices) for decision in space.decisions]
        self._open: list[tuple[tuple[int, ...], float | None]] = []  # the results of a cycle that is not complete

    def ask(self, n: int) -> list[tuple[int, ...]]:
        start, self.asked = self.asked, self.asked + n
        return [self._propose(index) for index in range(start, self.asked)]

    def tell(self, results: Sequence[tuple[tuple[int, ...], float | None]]) -> None:
        for tokens, reward in results:
            if self._place(self.told)[0] is not None:
                known = reward is not None and math.isfinite(reward)
                self._open.append((self.space.check(tokens), float(reward) if known else None))
            self.told += 1
            if len(self._open) == self.period:
                self._close()
        self.asked = max(self.asked, self.told)

    def ranked(self, rank: int) -> tuple[int, ...]:
        """Return for each decision the choice with the most points (rank 0), the second most (1), and so on.

        Of choices with equal points the earlier goes first; a decision with fewer choices gives its last.
        """
        found = []
        for points in self.points:
            order = sorted(range(len(points)), key=lambda token: -points[token])
            found.append(order[min(rank, len(order) - 1)])
        return tuple(found)

    def state_dict(self) -> dict:
        return {
            "seed": self.seed,
            "asked": self.asked,
            "told": self.told,
            "points": [list(points) for points in self.points],
            "open": [[list(tokens), reward] for tokens, reward in self._open],
        }

    def load_state_dict(self, state: dict) -> None:
        self.seed, self.asked, self.told = state["seed"], state["asked"], state["told"]
        self.points = [list(points) for points in state["points"]]
        self._open = [(self.space.check(tokens), reward) for tokens, reward in state["open"]]

    def _place(self, index: int) -> tuple[int | None, int]:
        """Return the cycle of a proposal and its place there, or None and its rank."""
        before = self.cycles * self.period
        if before <= index < before + self.ranks:
            return None, index - before
        return divmod(index if index < before else index - self.ranks, self.period)

    def _propose(self, index: int) -> tuple[int, ...]:
        cycle, place = self._place(index)
        if cycle is None:
            first = self.ranked(place)
        else:
            first = fair_paths(self.space, draws("path-priority", self.seed, cycle))[place]
        if not self.space.why_rejected(first):
            return first
        source = draws("path-priority", self.seed, "instead", index)
        return accepted(self.space, lambda: uniform(self.space, source))

    def _close(self) -> None:
        done = [(tokens, reward) for tokens, reward in self._open if reward is not None]
        for place, (tokens, _) in enumerate(sorted(done, key=lambda one: -one[1]), 1):
            for points, token in zip(self.points, tokens):
                points[token] += self.period - place
        self._open = []

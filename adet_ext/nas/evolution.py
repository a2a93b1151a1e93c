"""Regularised evolution: a population in which the oldest dies, whatever its reward.

Source: Real, Aggarwal, Huang and Le, "Regularized evolution for image classifier architecture search", 2019,
algorithm 1.
"""

import collections
import math
import random
from collections.abc import Sequence

from .samplers import TRIES, accepted, check_whole, draws, uniform
from .space import Space

__all__ = ["Evolution"]


class Evolution:
    """Mutates one decision of the best of a random sample of a population, and lets the oldest die.

    The first ``population`` proposals are uniform draws. Each later one is a child: the best of ``tournament`` members,
    drawn with replacement, with one decision drawn anew among its other choices. A child that the space rejects, or
    that builds the same network as its parent, is drawn again; after 200 draws a uniform draw takes its place, which
    is rejected only where 200 uniform draws were. An architecture that failed or was rejected (reward None, or not
    finite) does not enter the population, so that nothing descends from it.

    Children of architectures that are still being evaluated cannot be had: with rounds of several proposals, the
    population is as old as the last round.

    Args:
        population: size; 100 in the paper. Choose about a tenth to a fifth of a small budget.
        tournament: members of a sample; 25 in the paper.
    """

    def __init__(self, space: Space, seed: int, *, population: int = 100, tournament: int = 25):
        self.space, self.seed, self.asked, self.told = space, check_whole("seed", seed, 0), 0, 0
        self.population = check_whole("population", population, 1)
        self.tournament = check_whole("tournament", tournament, 1)
        self.members: collections.deque[tuple[tuple[int, ...], float]] = collections.deque(maxlen=self.population)

    def ask(self, n: int) -> list[tuple[int, ...]]:
        start, self.asked = self.asked, self.asked + n
        return [self._propose(index) for index in range(start, self.asked)]

    def tell(self, results: Sequence[tuple[tuple[int, ...], float | None]]) -> None:
        for tokens, reward in results:
            if reward is not None and math.isfinite(reward):
                self.members.append((self.space.check(tokens), float(reward)))  # the oldest goes by itself
        self.told += len(results)
        self.asked = max(self.asked, self.told)

    def state_dict(self) -> dict:
        members = [[list(tokens), reward] for tokens, reward in self.members]
        return {"seed": self.seed, "asked": self.asked, "told": self.told, "members": members}

    def load_state_dict(self, state: dict) -> None:
        self.seed, self.asked, self.told = state["seed"], state["asked"], state["told"]
        self.members.clear()
        self.members.extend((self.space.check(tokens), reward) for tokens, reward in state["members"])

    def _propose(self, index: int) -> tuple[int, ...]:
        source = draws("evolution", self.seed, index)
        if index >= self.population and self.members:
            for _ in range(TRIES):
                parent, _ = max((source.choice(self.members) for _ in range(self.tournament)), key=lambda one: one[1])
                child = self._mutate(parent, source)
                if not self.space.why_rejected(child) and self.space.canonical(child) != self.space.canonical(parent):
                    return child
        return accepted(self.space, lambda: uniform(self.space, source))

    def _mutate(self, tokens: tuple[int, ...], source: random.Random) -> tuple[int, ...]:
        counts = [len(decision.choices) for decision in self.space.decisions]
        free = [index for index, count in enumerate(counts) if count > 1]
        if not free:
            return tokens
        where = source.choice(free)
        other = source.randrange(counts[where] - 1)
        return tokens[:where] + (other + (other >= tokens[where]),) + tokens[where + 1 :]

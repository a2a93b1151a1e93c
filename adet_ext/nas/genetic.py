"""Evolution in generations, by mutation and crossover of the best so far.

Source: Chen et al., "DetNAS", 2019, and its released settings.
"""

import math
import random
from collections.abc import Sequence

from .samplers import TRIES, accepted, check_number, check_whole, draws, uniform
from .space import Space

__all__ = ["Genetic"]


class Genetic:
    """The first generation is drawn uniformly; later ones are children of the best architectures told so far.

    Of a generation of ``population``, ``mutations`` are a parent with each decision drawn anew with the probability
    ``rate``, ``crossovers`` take each decision from one of two parents, and the rest is drawn uniformly. What the space
    rejects, or was proposed before, is drawn again, up to 200 times. Parents change between generations alone.

    Args:
        population: 50 in DetNAS.
        parents: 10 in DetNAS.
        mutations, crossovers: 20 each in DetNAS.
        rate: 0.1 in DetNAS.
    """

    def __init__(
        self,
        space: Space,
        seed: int,
        *,
        population: int = 50,
        parents: int = 10,
        mutations: int = 20,
        crossovers: int = 20,
        rate: float = 0.1,
    ):
        self.space, self.seed, self.asked, self.told = space, check_whole("seed", seed, 0), 0, 0
        self.count = check_whole("parents", parents, 1)
        self.mutations, self.crossovers = (
            check_whole("mutations", mutations, 0),
            check_whole("crossovers", crossovers, 0),
        )
        self.population = check_whole("population", population, max(1, self.mutations + self.crossovers))
        self.rate = check_number("rate", rate, 0, 1)
        self.parents: list[tuple[tuple[int, ...], float]] = []
        self._best: list[tuple[tuple[int, ...], float]] = []  # the parents of the next generation so far
        self._seen: dict[tuple[int, ...], None] = {}  # in the order in which they were proposed or told

    def ask(self, n: int) -> list[tuple[int, ...]]:
        start, self.asked = self.asked, self.asked + n
        found = []
        for index in range(start, self.asked):
            found.append(self._propose(index))
            self._seen[self.space.canonical(found[-1])] = None
        return found

    def tell(self, results: Sequence[tuple[tuple[int, ...], float | None]]) -> None:
        for tokens, reward in results:
            tokens = self.space.check(tokens)
            self._seen[self.space.canonical(tokens)] = None
            if reward is not None and math.isfinite(reward) and tokens not in [one for one, _ in self._best]:
                self._best = sorted([*self._best, (tokens, float(reward))], key=lambda one: -one[1])[: self.count]
            self.told += 1
            if self.told % self.population == 0:
                self.parents = list(self._best)
        self.asked = max(self.asked, self.told)

    def state_dict(self) -> dict:
        def plain(rows: list) -> list:
            return [[list(tokens), reward] for tokens, reward in rows]

        state = {"seed": self.seed, "asked": self.asked, "told": self.told}
        return {**state, "parents": plain(self.parents), "best": plain(self._best), "seen": [*map(list, self._seen)]}

    def load_state_dict(self, state: dict) -> None:
        self.seed, self.asked, self.told = state["seed"], state["asked"], state["told"]
        self.parents, self._best = (
            [(self.space.check(tokens), reward) for tokens, reward in state[key]] for key in ("parents", "best")
        )
        self._seen = {tuple(tokens): None for tokens in state["seen"]}

    def _propose(self, index: int) -> tuple[int, ...]:
        source, place = draws("genetic", self.seed, index), index % self.population
        if self.parents and place < self.mutations + self.crossovers:
            make = self._mutated if place < self.mutations else self._crossed
            for _ in range(TRIES):
                child = make(source)
                if not self.space.why_rejected(child) and self.space.canonical(child) not in self._seen:
                    return child
        return accepted(self.space, lambda: uniform(self.space, source))

    def _mutated(self, source: random.Random) -> tuple[int, ...]:
        parent, _ = source.choice(self.parents)
        return tuple(
            source.randrange(len(decision.choices)) if source.random() < self.rate else token
            for decision, token in zip(self.space.decisions, parent)
        )

    def _crossed(self, source: random.Random) -> tuple[int, ...]:
        (first, _), (second, _) = source.choice(self.parents), source.choice(self.parents)
        return tuple(source.choice(pair) for pair in zip(first, second))

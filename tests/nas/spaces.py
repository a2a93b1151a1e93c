"""Synthetic spaces with known rewards, for tests."""

import random
from collections.abc import Callable, Sequence

from adet_ext.nas.samplers import Sampler
from adet_ext.nas.space import Decision, Space


class PoolSpace(Space):
    """Blocks of two locations in a growing pool, two operations and an aggregation, as thesis 7.3.2 has them.

    Args:
        rejected: how many of the operations of block 0 are rejected.
    """

    def __init__(self, blocks: int = 3, rejected: int = 0):
        decisions, pool = [], ["C3", "C4", "C5"]
        for block in range(blocks):
            decisions += [Decision(f"block{block}.location{i}", "location", tuple(pool)) for i in (1, 2)]
            decisions += [Decision(f"block{block}.op{i}", "operation", tuple("abcde")) for i in (1, 2)]
            decisions.append(Decision(f"block{block}.aggregation", "aggregation", ("sum", "concat")))
            pool.append(f"n{block}")
        super().__init__("pool", decisions)
        self.rejected = rejected

    def why_rejected(self, tokens: Sequence[int]) -> str:
        return "its first operation is rejected" if self.check(tokens)[2] < self.rejected else ""


def sum_of_scores(space: Space, seed: int = 0) -> Callable[[Sequence[int]], float]:
    """A reward that is the mean of one random score from -1 to 0 for every decision, as minus a loss is negative."""
    source = random.Random(seed)
    scores = [[source.random() - 1 for _ in decision.choices] for decision in space.decisions]
    return lambda tokens: sum(row[token] for row, token in zip(scores, tokens)) / len(scores)


def run(sampler: Sampler, reward: Callable, rounds: int, size: int = 4) -> list[tuple[tuple[int, ...], float]]:
    """Ask and tell ``rounds`` rounds of ``size``; return what was told."""
    told = []
    for _ in range(rounds):
        results = [(tokens, reward(tokens)) for tokens in sampler.ask(size)]
        sampler.tell(results)
        told += results
    return told

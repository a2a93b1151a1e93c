"""Rewards: a moving baseline, and one number out of several metrics."""

import math
from collections.abc import Iterable

__all__ = ["MovingBaseline", "geometric_mean"]


class MovingBaseline:
    """The moving average of the rewards. An advantage is a reward minus this value.

    The first reward is taken whole; each later one r gives b <- decay * b + (1 - decay) * r.

    Args:
        decay: 0.95 in the public code that thesis 2.2.3 and 7.3.3 build on (nas-segm-pytorch).
    """

    def __init__(self, decay: float = 0.95):
        if not 0 <= decay < 1:
            raise ValueError(f"decay must be from 0 to below 1; got {decay}")
        self.decay, self.value = decay, None

    def update(self, reward: float) -> float:
        """Take in a reward and return the new baseline."""
        first = self.value is None
        self.value = float(reward if first else self.decay * self.value + (1 - self.decay) * reward)
        return self.value

    def state_dict(self) -> dict:
        return {"value": self.value}

    def load_state_dict(self, state: dict) -> None:
        self.value = state["value"]


def geometric_mean(values: Iterable[float]) -> float:
    """Return the geometric mean of metrics; of mIoU, fwIoU and mAcc it is the reward of thesis 6.3.3.

    Raises:
        ValueError: no value, or one below zero, for which there is no such mean.
    """
    values = [float(value) for value in values]
    if not values or min(values) < 0:
        raise ValueError(f"values must be at least one, none below zero; got {values}")
    if 0.0 in values:
        return 0.0
    return math.exp(math.fsum(map(math.log, values)) / len(values))  # of logarithms: a product could underflow

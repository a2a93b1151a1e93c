"""What draws architectures: the ask / tell protocol, and samplers by name.

Every sampler is deterministic: what it proposes follows from its seed and from what it was told. The random numbers of
proposal k come from the seed and from k alone, so that they do not depend on how many were asked for at once, and so
that a sampler whose search was cut off is brought back by asking and telling the same again.
"""

import importlib
import inspect
import math
import operator
import random
from collections.abc import Callable, Sequence
from typing import Protocol

from ..errors import UserError
from .space import Space

__all__ = ["NAMES", "TRIES", "Sampler", "accepted", "build_sampler", "check_number", "check_whole", "draws", "uniform"]

NAMES = {
    "controller": "Controller",
    "evolution": "Evolution",
    "genetic": "Genetic",
    "path-priority": "PathPriority",
    "random": "RandomSearch",
}
_MODULES = {"random": "random_search", "path-priority": "path_priority"}  # where it is not the name

TRIES = 200  # draws of a proposal before one that the space rejects is proposed


class Sampler(Protocol):
    """Proposes architectures and learns from their rewards."""

    def ask(self, n: int) -> list[tuple[int, ...]]:
        """Return ``n`` token lists; the same ones wherever the state is the same."""

    def tell(self, results: Sequence[tuple[tuple[int, ...], float | None]]) -> None:
        """Learn from token lists with their rewards, in the order in which they were asked for.

        The larger the reward the better. None: the space rejected the architecture, or its evaluation failed.
        """

    def state_dict(self) -> dict:
        """Return the state as tensors, numbers, strings and lists, as ``torch.load(weights_only=True)`` takes them."""

    def load_state_dict(self, state: dict) -> None:
        """Take over a state of :meth:`state_dict`, with its seed; the proposals go on as they would have there."""


def build_sampler(name: str, space: Space, seed: int, **settings) -> Sampler:
    """Return the sampler ``name`` of :data:`NAMES` for ``space``.

    Args:
        settings: the keywords of the sampler's class.

    Raises:
        UserError: an unknown name, a setting that the sampler does not have, a value out of its range.
    """
    if name not in NAMES:
        raise UserError(f"The sampler must be one of {', '.join(NAMES)}; got {name!r}. Name one of them.")
    cls = getattr(importlib.import_module(f".{_MODULES.get(name, name)}", __package__), NAMES[name])
    parameters = inspect.signature(cls).parameters.values()
    known = [parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY]
    for setting in settings:
        if setting not in known:
            have = f"one of {', '.join(known)}" if known else "left out: it has none"
            raise UserError(f"A setting of the sampler {name} must be {have}; got {setting!r}. Correct its name.")
    return cls(space, seed, **settings)


def draws(*what: object) -> random.Random:
    """Return a source of random numbers that depends on ``what`` alone, on every machine and in every process."""
    return random.Random("/".join(map(str, what)))


def uniform(space: Space, source: random.Random) -> tuple[int, ...]:
    """Draw each decision uniformly and independently."""
    return tuple(source.randrange(len(decision.choices)) for decision in space.decisions)


def accepted(space: Space, draw: Callable[[], tuple[int, ...]]) -> tuple[int, ...]:
    """Return the first of at most :data:`TRIES` draws that the space does not reject, or else the last."""
    for _ in range(TRIES):
        tokens = draw()
        if not space.why_rejected(tokens):
            break
    return tokens


def check_whole(setting: str, value: object, least: int) -> int:
    """Return the setting as an int; raise UserError where it is no whole number of at least ``least``."""
    try:
        whole = operator.index(value)
    except TypeError:
        whole = least - 1
    if isinstance(value, bool) or whole < least:
        raise UserError(f"{setting} must be a whole number of at least {least}; got {value!r}. Correct it.")
    return whole


def check_number(setting: str, value: object, low: float, high: float = math.inf) -> float:
    """Return the setting as a float; raise UserError where it is no finite number from ``low`` to ``high``."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or not low <= value <= high:
        limits = f"of at least {low:g}" if high == math.inf else f"from {low:g} to {high:g}"
        raise UserError(f"{setting} must be a number {limits}; got {value!r}. Correct it.")
    return float(value)

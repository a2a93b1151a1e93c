"""One line of the operators' table."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

__all__ = ["PYRAMID", "Case", "Contest"]

# Height and width of P3 to P7 for an image of 800 x 1088.
PYRAMID = ((100, 136), (50, 68), (25, 34), (13, 17), (7, 9))


@dataclass(frozen=True)
class Contest:
    """Two functions without arguments that compute the same thing.

    Attributes:
        ours, theirs: return the results, a tensor or a tuple of tensors; backward passes included where the case says.
        bytes: the least traffic with memory that the result costs: every input read once, every output written once.
        same: whether the results are the same but for rounding, which is then checked; theirs may be a part of the
            work alone, as a bound.
    """

    ours: Callable[[], object]
    theirs: Callable[[], object]
    bytes: int
    same: bool = True


@dataclass(frozen=True)
class Case:
    """What is compared, and what is expected.

    Attributes:
        operator: name of ours, with "backward" where gradients are computed too.
        shape: the inputs' shapes, for people.
        baseline: what it is compared with, for people.
        make: (device, dtype) -> the contest, on fresh inputs.
        target: {"cpu": least ratio theirs / ours, "cuda": ...}, where one was set.
        dtypes: types in which both sides run.
        devices: where both sides run.
    """

    operator: str
    shape: str
    baseline: str
    make: Callable[[torch.device, torch.dtype], Contest]
    target: dict[str, float]
    dtypes: tuple[torch.dtype, ...] = (torch.float32,)
    devices: tuple[str, ...] = ("cpu", "cuda")

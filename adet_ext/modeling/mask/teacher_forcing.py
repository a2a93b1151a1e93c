"""Teacher forcing: choose ground-truth or predicted boxes to guide masks in training (thesis 3.3.1, Table 3.3).

P positive locations.
"""

import torch

from ...d2.utils import get_event_storage, has_event_storage
from ..checks import check_choice

__all__ = ["TeacherForcing"]

_SCHEDULES = ("w/", "w/o", "fix", "random")


class TeacherForcing:
    """A schedule of the probability of ground truth over the iterations.

    "w/": always; "w/o": never; "fix": in the first ``fix_iters`` iterations; "random": with probability
    1 - i / ``random_iters`` in iteration i, drawn per location.

    The iteration is that of the trainer's event storage, so it continues in a resumed run.
    """

    def __init__(self, schedule: str = "w/", *, fix_iters: int = 18_000, random_iters: int = 90_000):
        check_choice("MODEL.SMALMASK.TEACHER_FORCING", schedule, _SCHEDULES)
        self.schedule = schedule
        self.fix_iters = fix_iters
        self.random_iters = random_iters

    def probability(self, iteration: int) -> float:
        """Return the probability of ground truth in an iteration, counted from 0."""
        if self.schedule == "fix":
            return float(iteration < self.fix_iters)
        if self.schedule == "random":
            return max(0.0, 1 - iteration / self.random_iters)
        return float(self.schedule == "w/")

    def current(self) -> float:
        """Return the probability of ground truth now.

        Raises:
            ValueError: the schedule depends on the iteration, and no event storage is open.
        """
        if self.schedule in ("w/", "w/o"):
            return self.probability(0)
        if not has_event_storage():
            raise ValueError(
                "MODEL.SMALMASK.TEACHER_FORCING must be w/ or w/o outside of an EventStorage, as others depend on the "
                f"iteration; got {self.schedule!r}. Train inside 'with EventStorage(start):'"
            )
        return self.probability(get_event_storage().iter)

    @staticmethod
    def choose(probability: float, ground_truth: torch.Tensor, predicted: torch.Tensor) -> torch.Tensor:
        """Return each row (P, 4) of ``ground_truth`` with the probability, else of ``predicted``, without gradients."""
        draw = torch.rand(len(predicted), 1, device=predicted.device) < probability
        return torch.where(draw, ground_truth, predicted).detach()

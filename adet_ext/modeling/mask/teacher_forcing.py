"""Teacher forcing: whether ground-truth or predicted boxes guide mask prediction in training (thesis 3.3.1, Table 3.3).

P positive locations.
"""

import torch

from ...d2.utils import get_event_storage, has_event_storage

__all__ = ["TeacherForcing"]

_SCHEDULES = ("w/", "w/o", "fix", "random")


class TeacherForcing:
    """A schedule of the probability of ground truth over the iterations.

    "w/": always; "w/o": never; "fix": in the first ``fix_iters`` iterations; "random": with probability
    1 - i / ``random_iters`` in iteration i, drawn for each location by itself.

    The iteration is that of the trainer's event storage, which a resumed run starts where the last one ended.
    """

    def __init__(self, schedule: str = "w/", *, fix_iters: int = 18_000, random_iters: int = 90_000):
        if schedule not in _SCHEDULES:
            raise ValueError(f"MODEL.SMALMASK.TEACHER_FORCING is {schedule!r}; it can be {', '.join(_SCHEDULES)}")
        self.schedule = schedule
        self.fix_iters = fix_iters
        self.random_iters = random_iters

    def probability(self, iteration: int) -> float:
        """Of ground truth, in the iteration, counted from 0."""
        if self.schedule == "fix":
            return float(iteration < self.fix_iters)
        if self.schedule == "random":
            return max(0.0, 1 - iteration / self.random_iters)
        return float(self.schedule == "w/")

    def current(self) -> float:
        """Probability of ground truth now.

        Raises:
            ValueError: the schedule asks for the iteration, and no event storage tells it.
        """
        if self.schedule in ("w/", "w/o"):
            return self.probability(0)
        if not has_event_storage():
            raise ValueError(
                f"teacher forcing {self.schedule!r} depends on the iteration; train inside "
                "'with EventStorage(start):', or set MODEL.SMALMASK.TEACHER_FORCING to w/ or w/o"
            )
        return self.probability(get_event_storage().iter)

    @staticmethod
    def choose(probability: float, ground_truth: torch.Tensor, predicted: torch.Tensor) -> torch.Tensor:
        """Each row (P, 4) of ``ground_truth`` with the probability, else that of ``predicted``; no gradient flows."""
        draw = torch.rand(len(predicted), 1, device=predicted.device) < probability
        return torch.where(draw, ground_truth, predicted).detach()

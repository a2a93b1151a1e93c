"""Early stopping: a candidate whose score half-way is below what was seen so far is mostly not trained further.

The rule is that of nas-segm-pytorch, the public code of the search that thesis 6.4.1 follows ("half-way through the
training"). A validation point has a reference R. A score s there passes where s > R; else a u is drawn uniformly from
0 to delta, and it passes where s > R (1 - u). In the end R <- 0.99 R + 0.01 s. Delta shrinks as the search goes on.

Two things differ, for searches that are evaluated by many workers and for rewards of minus a loss:

- u is drawn ahead, from the seed of the task. Both questions then become one, s > R - u |R|, with a right side that is
  known before the training starts: a worker gets it as a number and needs no state.
- Scores may be negative. R (1 - u) would lie above R where R < 0, and a reference that starts at 0.01 would stop every
  candidate of a search whose scores are about -3, for hundreds of them. So the threshold is R - u |R|: a fraction u of
  R's size below R on either side of zero, and the same as R (1 - u) for R >= 0. There is no threshold before the first
  score; where that is negative, R starts at it instead of at ``start``. Scores whose mean is close to zero have no
  scale of their own, and with them nearly half of all candidates stop: add a constant to such scores.
"""

import math
from collections.abc import Sequence

from ..errors import UserError
from .samplers import check_number, check_whole, draws

__all__ = ["EarlyStopping"]


class EarlyStopping:
    """References for ``points`` validation points, each with its own.

    Args:
        points: validation points of a training at which it can be stopped; 0 stops nothing.
        start: where a reference starts if the first score is not negative; 0.01 in nas-segm-pytorch, as all others.
        decay: of the reference; 0.99.
        delta: the largest fraction of the reference below which a score is forgiven; 0.9.
        steps, factors: delta is multiplied by a factor after so many scores of a point; 100, 200, 300, 400 and 0.9,
            0.8, 0.7, 0.6. In nas-segm-pytorch a score above the reference counts as two steps; here as one.
    """

    def __init__(
        self,
        points: int,
        *,
        start: float = 0.01,
        decay: float = 0.99,
        delta: float = 0.9,
        steps: Sequence[int] = (100, 200, 300, 400),
        factors: Sequence[float] = (0.9, 0.8, 0.7, 0.6),
    ):
        points = check_whole("points", points, 0)
        self.start, self.decay = check_number("start", start, 0), check_number("decay", decay, 0, 1)
        self.delta = check_number("delta", delta, 0)
        if len(steps) != len(factors):
            raise UserError(f"steps and factors must be equally many; got {list(steps)} and {list(factors)}.")
        self.factors = [(check_whole("steps", s, 1), check_number("factors", f, 0)) for s, f in zip(steps, factors)]
        self.references: list[float | None] = [None] * points
        self.counts = [0] * points

    def thresholds(self, seed: int) -> tuple[float, ...]:
        """Return what a score must exceed at each point for the training of the task with this seed to go on.

        The same for the same seed and state; minus infinity where no score was seen yet.
        """
        thresholds = []
        for point, (reference, count) in enumerate(zip(self.references, self.counts)):
            u = draws("early stopping", seed, point).uniform(0, self._delta(count))
            thresholds.append(-math.inf if reference is None else reference - u * abs(reference))
        return tuple(thresholds)

    def tell(self, scores: Sequence[float]) -> None:
        """Take in the scores of one candidate, from the first point on; it may have stopped before the last.

        Scores that are not finite are passed over. Tell the candidates in the order of their tasks.
        """
        if len(scores) > len(self.references):
            raise ValueError(f"scores must be at most {len(self.references)}, one per point; got {list(scores)}")
        for point, score in enumerate(scores):
            if not math.isfinite(score):
                continue
            before = self.references[point]
            if before is None and score < 0:
                self.references[point] = float(score)
            else:
                before = self.start if before is None else before
                self.references[point] = self.decay * before + (1 - self.decay) * float(score)
            self.counts[point] += 1

    def state_dict(self) -> dict:
        return {"references": list(self.references), "counts": list(self.counts)}

    def load_state_dict(self, state: dict) -> None:
        if len(state["references"]) != len(self.references):
            have = len(state["references"])
            raise UserError(f"The state of early stopping must have {len(self.references)} points; got {have}.")
        self.references, self.counts = list(state["references"]), list(state["counts"])

    def _delta(self, count: int) -> float:
        return self.delta * math.prod(factor for step, factor in self.factors if count >= step)

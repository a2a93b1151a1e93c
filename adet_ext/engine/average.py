"""An exponential moving average of the weights over a training, which is evaluated and kept in the end."""

from typing import Any

from torch import nn

from ..d2.engine import HookBase
from ..utils.polyak import PolyakAverage

__all__ = ["WeightAverage"]


class WeightAverage(HookBase):
    """Averages the trained weights, and the statistics of norms, after every step.

    The decay of step i is min(decay, (1 + i) / (10 + i)), so that the random weights of the start are soon forgotten.
    After the last step the model takes the average: the final checkpoint and the evaluation at the end are of it.
    Checkpoints before that hold the model's own weights, and the average beside them for a run that resumes.

    Args:
        decay: of the long run; 0 to below 1.
        max_iter: after how many steps the model takes the average.
    """

    def __init__(self, model: nn.Module, decay: float, max_iter: int):
        self._model, self._decay, self._max_iter = model, decay, max_iter
        self._average = PolyakAverage(model, decay, buffers="average")

    def before_train(self) -> None:
        if not self._average.updates:  # the weights that training starts from were loaded since
            self._average = PolyakAverage(self._model, self._decay, buffers="average")

    def after_step(self) -> None:
        step = self._average.updates
        self._average.decay = min(self._decay, (1 + step) / (10 + step))
        self._average.update()
        if self.trainer.iter + 1 >= self._max_iter:
            self._average.swap_in()

    def state_dict(self) -> dict[str, Any]:
        return self._average.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._average.load_state_dict(state)

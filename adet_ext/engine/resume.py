"""What a resumed run needs so that it is the run that was never stopped, and so that a changed config takes effect.

The checkpoint of iteration i is written before the evaluation and the log line of iteration i, so that it is there if
they fail. A resumed run therefore cuts ``metrics.json`` back to what stood there at that moment, puts the scalars of
the last iterations back, and does the evaluation and the line of iteration i first.
"""

import json
import logging
import os
from collections.abc import Sequence
from typing import Any

import torch

from ..d2.engine import HookBase
from ..d2.utils import EventWriter
from ..errors import UserError

__all__ = ["RunHistory", "fit_optimizer", "parameter_names"]

logger = logging.getLogger(__name__)

# Writers show the median of so many iterations.
_WINDOW = 20


class RunHistory(HookBase):
    """Keeps in the checkpoint what the writers need: the newest scalars, and how far each has written.

    Args:
        writers: those of the run.
        metrics: the path of ``metrics.json``.
    """

    def __init__(self, writers: Sequence[EventWriter], metrics: str):
        self._writers, self._metrics = writers, metrics
        self._loaded: dict[str, Any] = {}

    @property
    def is_loaded(self) -> bool:
        """Whether the checkpoint had a history; those of Detectron2's own trainer have none."""
        return bool(self._loaded)

    def state_dict(self) -> dict[str, Any]:
        storage = getattr(self.trainer, "storage", None)
        if storage is None:  # the training has not begun
            return self._loaded
        scalars = {}
        for name in storage.latest():  # in this order, which is that of the lines in metrics.json
            values = storage.history(name).values()[-storage.count_samples(name, _WINDOW) :]
            scalars[name] = {
                "smooth": storage.smoothing_hints()[name],
                "values": [[float(value), int(iteration)] for value, iteration in values],
            }
        return {
            "scalars": scalars,
            "written": {type(writer).__name__: writer._last_write for writer in self._counting()},
            "metrics_bytes": os.path.getsize(self._metrics) if os.path.isfile(self._metrics) else 0,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Keep the state; what is not of the right kind raises KeyError, TypeError or ValueError here, not later."""
        scalars = {
            str(name): {"smooth": bool(x["smooth"]), "values": [(float(v), int(i)) for v, i in x["values"]]}
            for name, x in state["scalars"].items()
        }
        if not all(0 <= value < 1e6 for value, _ in scalars.get("time", {}).get("values", ())):
            raise ValueError("the seconds of an iteration must be a number from 0 on")
        written = {str(name): int(iteration) for name, iteration in state["written"].items()}
        self._loaded = {"scalars": scalars, "written": written, "metrics_bytes": max(int(state["metrics_bytes"]), 0)}

    def before_train(self) -> None:
        if not self.is_loaded:
            return
        for name, scalar in self._loaded["scalars"].items():
            for value, iteration in scalar["values"]:
                self.trainer.storage.put_scalar(name, value, smoothing_hint=scalar["smooth"], cur_iter=iteration)
        for writer in self._counting():
            writer._last_write = self._loaded["written"].get(type(writer).__name__, writer._last_write)

    def _counting(self) -> list[EventWriter]:
        """The writers that write every value once; they count iterations in the same attribute in both engines."""
        return [writer for writer in self._writers if isinstance(getattr(writer, "_last_write", None), int)]

    def cut_back(self, last_iteration: int) -> None:
        """Remove from ``metrics.json`` what was written after the checkpoint that was loaded.

        Args:
            last_iteration: that of the checkpoint, -1 where there is none; decides where the checkpoint does not say
                how long the file was.
        """
        if not os.path.isfile(self._metrics):
            return
        size = os.path.getsize(self._metrics)
        end = self._loaded["metrics_bytes"] if self.is_loaded else _end_of(self._metrics, last_iteration)
        if end < size:
            logger.info("Cutting %s back to the checkpoint: %d of %d bytes stay", self._metrics, end, size)
            os.truncate(self._metrics, end)


def _end_of(path: str, last_iteration: int) -> int:
    """The offset of the first line that is broken or of a later iteration."""
    end = 0
    with open(path, "rb") as file:
        for line in file:
            try:
                later = json.loads(line)["iteration"] > last_iteration
            except (ValueError, KeyError, TypeError):
                later = True
            if later or not line.endswith(b"\n"):
                break
            end += len(line)
    return end


def parameter_names(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> list[str]:
    """The names of an optimizer's parameters, in its order."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return [names[id(parameter)] for group in optimizer.param_groups for parameter in group["params"]]


def fit_optimizer(
    saved: dict[str, Any], saved_names: Sequence[str] | None, optimizer: torch.optim.Optimizer, names: Sequence[str]
) -> dict[str, Any]:
    """The state of a checkpoint's optimizer under the hyperparameters of the config.

    The momenta go to the parameters of the same names, whichever groups the config puts them into. An optimizer may be
    Adam for some groups and SGD for others.

    Args:
        saved, saved_names: the checkpoint's state, and the names of its parameters where they are on record.
        optimizer, names: as the config describes it.

    Raises:
        UserError: it is another kind of optimizer, or a parameter has another shape.
    """
    own = optimizer.state_dict()
    saved_kinds, kinds = (_kinds(state) for state in (saved, own))
    if saved_names is None:
        sizes = [[len(group["params"]) for group in state["param_groups"]] for state in (saved, own)]
        if sizes[0] != sizes[1]:
            raise UserError(
                "the checkpoint does not name the parameters of its optimizer, and the config groups them otherwise. "
                "Resume with the weight decays and the bias factor that it was trained with, or start a run with "
                "MODEL.WEIGHTS set to it and without --resume"
            )
        saved_names = names
    place = {name: index for index, name in enumerate(saved_names)}
    kind_before = dict(zip(saved_names, saved_kinds))
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state = {}
    for index, (name, parameter, kind) in enumerate(zip(names, parameters, kinds)):
        found = saved["state"].get(place.get(name))
        if (before := kind_before.get(name, kind)) != kind:
            raise UserError(
                f"SOLVER.OPTIMIZER must be {before} to go on with this checkpoint, whose momenta are of that kind; got "
                f"{kind}. To change it, start a run with MODEL.WEIGHTS set to the checkpoint and without --resume"
            )
        if found is None:
            continue
        state[index] = _checked_momenta(found, name, parameter, kind)
    return {"state": state, "param_groups": own["param_groups"]}


def _kinds(state: dict[str, Any]) -> list[str]:
    """The kind of optimizer of each parameter."""
    return [
        "ADAMW" if "betas" in group else "SGD" for group in state["param_groups"] for _ in range(len(group["params"]))
    ]


_MOMENTA = {"SGD": {"momentum_buffer"}, "ADAMW": {"exp_avg", "exp_avg_sq"}}


def _checked_momenta(found: dict[str, Any], name: str, parameter: torch.Tensor, kind: str) -> dict[str, Any]:
    """The state of one parameter, which would otherwise fail in the first step.

    Raises:
        UserError: it is that of a parameter of another shape.
        ValueError: it is no state of such an optimizer.
    """
    for key in _MOMENTA[kind]:
        value = found.get(key)
        if value is None and kind == "SGD":  # without momentum there is none
            continue
        if not isinstance(value, torch.Tensor) or not value.is_floating_point() or value.layout != torch.strided:
            raise ValueError(f"the optimizer's {key} of {name} must be a tensor; got {type(value).__name__}")
        if value.shape != parameter.shape:
            raise UserError(
                f"--resume needs the model of the checkpoint, but {name} is {tuple(value.shape)} there and "
                f"{tuple(parameter.shape)} in the model that the config describes. Set the MODEL keys back, or "
                "start a run with MODEL.WEIGHTS set to the checkpoint and without --resume"
            )
    if kind == "ADAMW" and not float(found["step"]) >= 0:
        raise ValueError(f"the optimizer's step of {name} must be a number; got {found['step']!r:.80}")
    return found

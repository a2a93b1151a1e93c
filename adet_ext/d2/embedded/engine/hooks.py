"""The hooks of a training run: timing, schedule, checkpoints, evaluation, writing."""

import datetime
import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import torch
from fvcore.common.checkpoint import PeriodicCheckpointer as _PeriodicCheckpointer
from fvcore.common.timer import Timer

from ..evaluation.testing import flatten_results_dict
from ..utils import comm
from ..utils.events import EventWriter
from .train_loop import HookBase


class IterationTimer(HookBase):
    """Put the ``time`` of each iteration into the storage and log a summary. The first iterations do not count.

    It must be the first hook, so that the time of the other hooks does not count.
    """

    def __init__(self, warmup_iter: int = 3):
        self._warmup_iter = warmup_iter
        self._step_timer = Timer()
        self._total_timer = Timer()
        self._start_time = time.perf_counter()

    def before_train(self) -> None:
        self._start_time = time.perf_counter()
        self._total_timer.reset()
        self._total_timer.pause()

    def before_step(self) -> None:
        self._step_timer.reset()
        self._total_timer.resume()

    def after_step(self) -> None:
        done = self.trainer.iter - self.trainer.start_iter + 1
        if done >= self._warmup_iter:
            self.trainer.storage.put_scalar("time", self._step_timer.seconds())
        else:
            self._start_time = time.perf_counter()
            self._total_timer.reset()
        self._total_timer.pause()

    def after_train(self) -> None:
        logger = logging.getLogger(__name__)
        total = time.perf_counter() - self._start_time
        steps = self._total_timer.seconds()
        count = self.trainer.iter + 1 - self.trainer.start_iter - self._warmup_iter
        if count > 0 and steps > 0:
            logger.info(
                "Overall training speed: %d iterations in %s (%.4f s / it)", count, _clock(steps), steps / count
            )
        logger.info("Total training time: %s (%s on hooks)", _clock(total), _clock(total - steps))


def _clock(seconds: float) -> str:
    return str(datetime.timedelta(seconds=int(seconds)))


class PeriodicWriter(HookBase):
    """Call the writers every ``period`` iterations, after the last one and at the end, and then close them."""

    def __init__(self, writers: list[EventWriter], period: int = 20):
        for writer in writers:
            if not isinstance(writer, EventWriter):
                raise TypeError(f"a writer must derive from EventWriter; got {type(writer).__name__}")
        self._writers = writers
        self._period = period

    def after_step(self) -> None:
        count = self.trainer.iter + 1
        if count % self._period == 0 or count == self.trainer.max_iter:
            for writer in self._writers:
                writer.write()

    def after_train(self) -> None:
        for writer in self._writers:
            writer.write()  # the values of the other hooks' after_train
            writer.close()


class PeriodicCheckpointer(_PeriodicCheckpointer, HookBase):
    """Save ``model_0000099.pth`` and so on every ``period`` iterations, and ``model_final.pth`` at the end."""

    def before_train(self) -> None:
        self.max_iter = self.trainer.max_iter

    def after_step(self) -> None:
        self.step(self.trainer.iter)


class LRScheduler(HookBase):
    """Log the learning rate of the largest group and advance the schedule after each iteration.

    Args:
        optimizer, scheduler: None: those of the trainer.
    """

    def __init__(self, optimizer: torch.optim.Optimizer | None = None, scheduler: Any = None):
        self._optimizer = optimizer
        self._scheduler = scheduler

    @property
    def scheduler(self) -> Any:
        return self._scheduler or self.trainer.scheduler

    def before_train(self) -> None:
        self._optimizer = self._optimizer or self.trainer.optimizer
        self._group = self.get_best_param_group_id(self._optimizer)

    @staticmethod
    def get_best_param_group_id(optimizer: torch.optim.Optimizer) -> int:
        """Return the index of the largest group; with one tensor each, the first with the most common rate."""
        groups = optimizer.param_groups
        sizes = [len(group["params"]) for group in groups]
        if max(sizes) > 1:
            return sizes.index(max(sizes))
        rates = [group["lr"] for group in groups]
        return rates.index(Counter(rates).most_common(1)[0][0])

    def after_step(self) -> None:
        rate = self._optimizer.param_groups[self._group]["lr"]
        self.trainer.storage.put_scalar("lr", rate, smoothing_hint=False)
        self.scheduler.step()

    def state_dict(self) -> dict[str, Any]:
        return self.scheduler.state_dict()

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        self.scheduler.load_state_dict(state_dict)


class EvalHook(HookBase):
    """Call ``eval_function`` every ``eval_period`` iterations (0: never) and after the last one.

    The function takes no arguments and returns a nested dictionary of numbers. They go into the storage with
    names such as "bbox/AP". Either all processes have the hook or none has.

    Raises:
        ValueError: a result is not a number; the message names it.
    """

    def __init__(self, eval_period: int, eval_function: Callable[[], Any]):
        self._period = eval_period
        self._function = eval_function

    def _evaluate(self) -> None:
        results = self._function()
        if results:
            if not isinstance(results, Mapping):
                raise ValueError(f"an evaluation must return a dictionary; got {type(results).__name__}")
            for name, value in flatten_results_dict(results).items():
                try:
                    value = float(value)
                except (TypeError, ValueError, RuntimeError):  # ValueError: a tensor of several numbers
                    raise ValueError(
                        f"an evaluation must return numbers, in dictionaries as deep as need be; "
                        f"under {name!r} it returned {value!r}"
                    ) from None
                self.trainer.storage.put_scalar(name, value, smoothing_hint=False)
        # Processes evaluate at different speeds and wait here for one another.
        comm.synchronize()

    def after_step(self) -> None:
        count = self.trainer.iter + 1
        if self._period > 0 and count % self._period == 0 and count != self.trainer.max_iter:
            self._evaluate()

    def after_train(self) -> None:
        if self.trainer.iter + 1 >= self.trainer.max_iter:
            self._evaluate()
        del self._function  # it probably refers to the trainer

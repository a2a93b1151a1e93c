"""The training loop: a trainer that runs steps, and hooks that are called around them."""

import logging
import time
import weakref
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ..utils import comm
from ..utils.events import EventStorage, get_event_storage


class HookBase:
    """Methods that a trainer calls around its steps. ``self.trainer`` is the trainer, weakly referenced.

    Slow work belongs in :meth:`after_step`, because timers run from :meth:`before_step` to it.
    """

    trainer: "TrainerBase" = None

    def before_train(self) -> None:
        """Run before the first iteration."""

    def after_train(self) -> None:
        """Run after the last iteration, also if an exception ended the training."""

    def before_step(self) -> None:
        """Run before each iteration."""

    def after_backward(self) -> None:
        """Run after each backward pass, before the optimizer's step."""

    def after_step(self) -> None:
        """Run after each iteration."""

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint must keep. A hook that returns something also needs ``load_state_dict``."""
        return {}


class TrainerBase:
    """Run ``run_step`` from ``start_iter`` to ``max_iter`` with hooks.

    ``iter`` is the current iteration, and ``max_iter`` at the end.
    """

    def __init__(self) -> None:
        self._hooks: list[HookBase] = []
        self.iter = 0
        self.start_iter = 0
        self.max_iter: int
        self.storage: EventStorage

    def register_hooks(self, hooks: list[HookBase | None]) -> None:
        """Append hooks, which run in this order. None is skipped."""
        for hook in hooks:
            if hook is None:
                continue
            if not isinstance(hook, HookBase):
                raise TypeError(f"a hook must derive from HookBase; got {type(hook).__name__}")
            hook.trainer = weakref.proxy(self)  # hook and trainer do not keep each other alive
            self._hooks.append(hook)

    def train(self, start_iter: int, max_iter: int) -> None:
        """Run the iterations from ``start_iter`` to ``max_iter`` - 1."""
        logger = logging.getLogger(__name__)
        logger.info("Starting training from iteration %d", start_iter)
        self.iter = self.start_iter = start_iter
        self.max_iter = max_iter
        with EventStorage(start_iter) as self.storage:
            try:
                self.before_train()
                for self.iter in range(start_iter, max_iter):
                    self.before_step()
                    self.run_step()
                    self.after_step()
                self.iter += 1  # after_train sees from it that no iteration failed
            except Exception:
                logger.exception("Exception during training:")
                raise
            finally:
                self.after_train()

    def before_train(self) -> None:
        for hook in self._hooks:
            hook.before_train()

    def after_train(self) -> None:
        self.storage.iter = self.iter
        for hook in self._hooks:
            hook.after_train()

    def before_step(self) -> None:
        self.storage.iter = self.iter
        for hook in self._hooks:
            hook.before_step()

    def after_backward(self) -> None:
        for hook in self._hooks:
            hook.after_backward()

    def after_step(self) -> None:
        for hook in self._hooks:
            hook.after_step()

    def run_step(self) -> None:
        raise NotImplementedError(f"{type(self).__name__} must define run_step()")

    def state_dict(self) -> dict[str, Any]:
        """Return the iteration and, by class name, the state of the first hook of each class with a state."""
        state: dict[str, Any] = {"iteration": self.iter}
        hooks: dict[str, Any] = {}
        for hook in self._hooks:
            hook_state = hook.state_dict()
            if hook_state:
                hooks.setdefault(type(hook).__qualname__, hook_state)
        if hooks:
            state["hooks"] = hooks
        return state

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        self.iter = state_dict["iteration"]
        for name, hook_state in state_dict.get("hooks", {}).items():
            hook = next((h for h in self._hooks if type(h).__qualname__ == name), None)
            if hook is None:
                logging.getLogger(__name__).warning(
                    "the checkpoint has a state for hook %s, which this run does not have; left out", name
                )
            else:
                hook.load_state_dict(hook_state)


class SimpleTrainer(TrainerBase):
    """Train one model with one optimizer and one stream of batches: forward, backward, step.

    Args:
        model: takes a batch and returns a dictionary of scalar losses, or one scalar. It is put into training mode.
        data_loader: iterable over batches. Its iterator is made at the first step.
    """

    def __init__(self, model: nn.Module, data_loader: Iterable, optimizer: torch.optim.Optimizer):
        super().__init__()
        model.train()
        self.model = model
        self.data_loader = data_loader
        self.optimizer = optimizer
        self._iterator: Iterator | None = None

    @property
    def _data_loader_iter(self) -> Iterator:
        if self._iterator is None:
            self._iterator = iter(self.data_loader)
        return self._iterator

    def reset_data_loader(self, data_loader_builder) -> None:
        """Replace the stream of batches by the result of ``data_loader_builder()``."""
        del self.data_loader  # so that its workers end before those of the next one start
        self._iterator = None
        self.data_loader = data_loader_builder()

    def run_step(self) -> None:
        """Run forward, backward, log, step. If a loss is not finite, the weights are not changed.

        Raises:
            FloatingPointError: a loss is infinite or NaN, with the iteration and the losses.
        """
        assert self.model.training, f"{type(self).__name__}: the model was put into evaluation mode"
        start = time.perf_counter()
        data = next(self._data_loader_iter)
        data_time = time.perf_counter() - start
        losses = self._forward(data)
        if isinstance(losses, torch.Tensor):
            losses = {"total_loss": losses}
        self.optimizer.zero_grad()
        self._backward(sum(losses.values()))
        self.after_backward()
        self.write_metrics(losses, data_time, self.iter)
        self._step()

    def _forward(self, data: Any) -> dict[str, torch.Tensor] | torch.Tensor:
        return self.model(data)

    def _backward(self, total: torch.Tensor) -> None:
        total.backward()

    def _step(self) -> None:
        self.optimizer.step()

    @staticmethod
    def write_metrics(loss_dict: Mapping[str, torch.Tensor], data_time: float, cur_iter: int) -> None:
        """Average scalar losses over the processes and put them, their sum and the timings into the storage.

        Raises:
            FloatingPointError: (first process) the sum is not finite.
        """
        storage = get_event_storage()
        storage.put_scalar("rank_data_time", data_time, cur_iter=cur_iter)
        metrics = {name: value.detach().cpu().item() for name, value in loss_dict.items()}
        gathered = comm.gather({**metrics, "data_time": data_time})
        if not comm.is_main_process():
            return
        # The step waits for the slowest process, so the largest time counts.
        slowest = np.max([one.pop("data_time") for one in gathered])
        storage.put_scalar("data_time", slowest, cur_iter=cur_iter)
        metrics = {name: np.mean([one[name] for one in gathered]) for name in metrics}
        total = sum(metrics.values())
        if not np.isfinite(total):
            values = ", ".join(f"{name} = {value}" for name, value in metrics.items())
            raise FloatingPointError(f"Loss became infinite or NaN at iteration={cur_iter}! {values}.")
        storage.put_scalar("total_loss", total, cur_iter=cur_iter)
        if len(metrics) > 1:
            storage.put_scalars(cur_iter=cur_iter, **metrics)

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.optimizer.load_state_dict(state_dict["optimizer"])


class AMPTrainer(SimpleTrainer):
    """Like :class:`SimpleTrainer`, with the forward pass in half precision and scaled gradients, on a GPU."""

    def __init__(self, model: nn.Module, data_loader: Iterable, optimizer: torch.optim.Optimizer):
        if isinstance(model, DistributedDataParallel) and len(model.device_ids or ()) > 1:
            raise ValueError("mixed precision needs one process per GPU, not one process with several")
        super().__init__(model, data_loader, optimizer)
        self.grad_scaler = torch.amp.GradScaler("cuda")

    def run_step(self) -> None:
        if not torch.cuda.is_available():
            raise RuntimeError("mixed precision needs a CUDA GPU; set SOLVER.AMP.ENABLED to False on CPU")
        super().run_step()

    def _forward(self, data: Any) -> dict[str, torch.Tensor] | torch.Tensor:
        with torch.autocast("cuda", dtype=torch.float16):
            return super()._forward(data)

    def _backward(self, total: torch.Tensor) -> None:
        self.grad_scaler.scale(total).backward()

    def _step(self) -> None:
        self.grad_scaler.step(self.optimizer)
        self.grad_scaler.update()

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "grad_scaler": self.grad_scaler.state_dict()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.grad_scaler.load_state_dict(state_dict["grad_scaler"])

"""Optimizers and learning-rate schedules from ``cfg.SOLVER``, value for value those of Detectron2."""

import copy
import logging
from collections import defaultdict
from typing import Any

import torch
from fvcore.common.param_scheduler import (
    CompositeParamScheduler,
    ConstantParamScheduler,
    CosineParamScheduler,
    LinearParamScheduler,
    MultiStepParamScheduler,
    ParamScheduler,
)
from torch import nn
from torch.nn.utils import clip_grad_norm_, clip_grad_value_
from torch.optim.lr_scheduler import LRScheduler

from .config import CfgNode

_NORM_LAYERS = (
    nn.modules.batchnorm._BatchNorm,
    nn.modules.instancenorm._InstanceNorm,
    nn.GroupNorm,
    nn.LayerNorm,
    nn.LocalResponseNorm,
)


def get_default_optimizer_params(
    model: nn.Module,
    base_lr: float | None = None,
    weight_decay: float | None = None,
    weight_decay_norm: float | None = None,
    bias_lr_factor: float | None = 1.0,
    weight_decay_bias: float | None = None,
) -> list[dict[str, Any]]:
    """Return the trainable parameters as optimizer groups, one per distinct set of hyperparameters.

    Args:
        base_lr, weight_decay: of every group; None leaves them to the optimizer.
        weight_decay_norm: for the parameters of normalization layers instead.
        bias_lr_factor, weight_decay_bias: for parameters named ``bias``, norm layers' ones included.

    Raises:
        ValueError: a learning-rate factor is given without ``base_lr``.
    """
    bias = {}
    if bias_lr_factor not in (None, 1.0):
        if base_lr is None:
            raise ValueError("bias_lr_factor multiplies base_lr, which is not given")
        bias["lr"] = base_lr * bias_lr_factor
    if weight_decay_bias is not None:
        bias["weight_decay"] = weight_decay_bias
    common = {"lr": base_lr, "weight_decay": weight_decay}
    common = {key: value for key, value in common.items() if value is not None}

    groups: dict[tuple, list[nn.Parameter]] = defaultdict(list)
    seen = set()
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad or parameter in seen:
                continue
            seen.add(parameter)
            hyper = dict(common)
            if weight_decay_norm is not None and isinstance(module, _NORM_LAYERS):
                hyper["weight_decay"] = weight_decay_norm
            if name == "bias":
                hyper.update(bias)
            groups[tuple(hyper.items())].append(parameter)
    return [{**dict(hyper), "params": parameters} for hyper, parameters in groups.items()]


def maybe_add_gradient_clipping(
    cfg: CfgNode, optimizer: torch.optim.Optimizer | type[torch.optim.Optimizer]
) -> torch.optim.Optimizer | type[torch.optim.Optimizer]:
    """Make an optimizer (or a class of one) clip the gradients of each parameter before its step.

    ``cfg.SOLVER.CLIP_GRADIENTS``: ENABLED, CLIP_TYPE ("value" or "norm"), CLIP_VALUE, NORM_TYPE.
    """
    clip = copy.deepcopy(cfg.SOLVER.CLIP_GRADIENTS)
    if not clip.ENABLED:
        return optimizer
    if clip.CLIP_TYPE not in ("value", "norm"):
        raise ValueError(f"SOLVER.CLIP_GRADIENTS.CLIP_TYPE must be 'value' or 'norm'; got {clip.CLIP_TYPE!r}")
    base = type(optimizer) if isinstance(optimizer, torch.optim.Optimizer) else optimizer

    def step(self, closure=None):
        for group in self.param_groups:
            for parameter in group["params"]:
                if clip.CLIP_TYPE == "value":
                    clip_grad_value_(parameter, clip.CLIP_VALUE)
                else:
                    clip_grad_norm_(parameter, clip.CLIP_VALUE, clip.NORM_TYPE)
        return base.step(self, closure)

    clipping = type(f"{base.__name__}WithGradientClip", (base,), {"step": step})
    if isinstance(optimizer, torch.optim.Optimizer):
        optimizer.__class__ = clipping  # this keeps the state of an existing optimizer
        return optimizer
    return clipping


def build_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """Return SGD as ``cfg.SOLVER`` describes it."""
    solver = cfg.SOLVER
    groups = get_default_optimizer_params(
        model,
        base_lr=solver.BASE_LR,
        weight_decay_norm=solver.WEIGHT_DECAY_NORM,
        bias_lr_factor=solver.BIAS_LR_FACTOR,
        weight_decay_bias=solver.WEIGHT_DECAY_BIAS,
    )
    optimizer = torch.optim.SGD(
        groups,
        lr=solver.BASE_LR,
        momentum=solver.MOMENTUM,
        nesterov=solver.NESTEROV,
        weight_decay=solver.WEIGHT_DECAY,
        foreach=True,
    )
    return maybe_add_gradient_clipping(cfg, optimizer)


class WarmupParamScheduler(CompositeParamScheduler):
    """A schedule after a warm-up, over progress in [0, 1].

    Args:
        warmup_factor: the first value relative to ``scheduler``'s own first value.
        warmup_length: the warm-up's fraction of the training.
        warmup_method: "linear" or "constant".
        rescale_interval: start ``scheduler`` at the end of the warm-up, instead of at the start of training.
    """

    def __init__(
        self,
        scheduler: ParamScheduler,
        warmup_factor: float,
        warmup_length: float,
        warmup_method: str = "linear",
        rescale_interval: bool = False,
    ):
        first = warmup_factor * scheduler(0.0)
        if warmup_method == "linear":
            warmup = LinearParamScheduler(first, scheduler(0.0 if rescale_interval else warmup_length))
        elif warmup_method == "constant":
            warmup = ConstantParamScheduler(first)
        else:
            raise ValueError(f"SOLVER.WARMUP_METHOD must be 'linear' or 'constant'; got {warmup_method!r}")
        super().__init__(
            [warmup, scheduler],
            lengths=[warmup_length, 1 - warmup_length],
            interval_scaling=["rescaled", "rescaled" if rescale_interval else "fixed"],
        )


class LRMultiplier(LRScheduler):
    """Multiply the initial learning rate of every group by ``multiplier(iteration / max_iter)``."""

    def __init__(
        self, optimizer: torch.optim.Optimizer, multiplier: ParamScheduler, max_iter: int, last_iter: int = -1
    ):
        if not isinstance(multiplier, ParamScheduler):
            raise ValueError(f"multiplier must be an fvcore ParamScheduler; got {type(multiplier).__name__}")
        self._multiplier = multiplier
        self._max_iter = max_iter
        super().__init__(optimizer, last_epoch=last_iter)

    def state_dict(self) -> dict[str, Any]:
        return {"base_lrs": self.base_lrs, "last_epoch": self.last_epoch}

    def get_lr(self) -> list[float]:
        factor = self._multiplier(self.last_epoch / self._max_iter)
        return [lr * factor for lr in self.base_lrs]


def build_lr_scheduler(cfg: CfgNode, optimizer: torch.optim.Optimizer) -> LRScheduler:
    """Return the schedule named by ``cfg.SOLVER.LR_SCHEDULER_NAME``, with its warm-up.

    The names are WarmupMultiStepLR and WarmupCosineLR.
    """
    solver = cfg.SOLVER
    max_iter = solver.MAX_ITER
    if solver.WARMUP_ITERS >= max_iter and solver.RESCALE_INTERVAL:
        raise ValueError(
            f"SOLVER.WARMUP_ITERS is {solver.WARMUP_ITERS} of {max_iter} iterations (SOLVER.MAX_ITER); "
            "RESCALE_INTERVAL needs some after it"
        )
    if solver.LR_SCHEDULER_NAME == "WarmupMultiStepLR":
        steps = [step for step in solver.STEPS if step <= max_iter]
        if len(steps) < len(solver.STEPS):
            logging.getLogger(__name__).warning(
                "SOLVER.STEPS %s beyond SOLVER.MAX_ITER %d are left out", tuple(solver.STEPS), max_iter
            )
        values = [solver.GAMMA**k for k in range(len(steps) + 1)]
        schedule = MultiStepParamScheduler(values, milestones=steps, num_updates=max_iter)
    elif solver.LR_SCHEDULER_NAME == "WarmupCosineLR":
        end = solver.BASE_LR_END / solver.BASE_LR
        if not 0 <= end <= 1:
            raise ValueError(f"SOLVER.BASE_LR_END is {solver.BASE_LR_END}; it goes from 0 to BASE_LR, {solver.BASE_LR}")
        schedule = CosineParamScheduler(1, end)
    else:
        raise ValueError(
            f"SOLVER.LR_SCHEDULER_NAME is {solver.LR_SCHEDULER_NAME!r}; the embedded engine knows "
            "WarmupMultiStepLR and WarmupCosineLR; for others install Detectron2"
        )
    multiplier = WarmupParamScheduler(
        schedule,
        solver.WARMUP_FACTOR,
        min(solver.WARMUP_ITERS / max_iter, 1.0),
        solver.WARMUP_METHOD,
        solver.RESCALE_INTERVAL,
    )
    return LRMultiplier(optimizer, multiplier=multiplier, max_iter=max_iter)

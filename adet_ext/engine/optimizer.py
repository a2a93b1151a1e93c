"""The optimizer that a config describes, with a learning rate of its own for the backbone's body."""

from typing import Any

import torch
from torch import nn

from ..d2.config import CfgNode
from ..d2.solver import build_optimizer as engine_optimizer
from ..d2.solver import get_default_optimizer_params, maybe_add_gradient_clipping

__all__ = ["build_optimizer"]


def build_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """Return SGD or AdamW (``SOLVER.OPTIMIZER``) as ``cfg.SOLVER`` describes it.

    Learning rates of the body (the backbone without its pyramid) are multiplied by ``SOLVER.BACKBONE_MULTIPLIER``. SGD
    with a multiplier of 1 is the engine's own.
    """
    solver = cfg.SOLVER
    sgd = solver.OPTIMIZER.upper() == "SGD"
    if sgd and solver.BACKBONE_MULTIPLIER == 1.0:
        return engine_optimizer(cfg, model)
    groups = get_default_optimizer_params(
        model,
        base_lr=solver.BASE_LR,
        weight_decay_norm=solver.WEIGHT_DECAY_NORM,
        bias_lr_factor=solver.BIAS_LR_FACTOR,
        weight_decay_bias=solver.WEIGHT_DECAY_BIAS,
    )
    groups = _with_body_apart(groups, model, solver.BACKBONE_MULTIPLIER)
    common = {"lr": solver.BASE_LR, "weight_decay": solver.WEIGHT_DECAY}
    if sgd:
        common.update(momentum=solver.MOMENTUM, nesterov=solver.NESTEROV)
    kind = torch.optim.SGD if sgd else torch.optim.AdamW
    return maybe_add_gradient_clipping(cfg, kind)(groups, **common)


def _with_body_apart(groups: list[dict[str, Any]], model: nn.Module, factor: float) -> list[dict[str, Any]]:
    """Split each group in two, the body's parameters in the second one with their learning rate times ``factor``."""
    backbone = getattr(model, "backbone", None)
    body = getattr(backbone, "bottom_up", backbone)
    inside = {id(parameter) for parameter in body.parameters()} if body is not None else set()
    if factor == 1.0 or not inside:
        return groups
    split = []
    for group in groups:
        parts = [[p for p in group["params"] if (id(p) in inside) is within] for within in (False, True)]
        for parameters, rate in zip(parts, (group["lr"], group["lr"] * factor)):
            if parameters:
                split.append({**group, "params": parameters, "lr": rate})
    return split

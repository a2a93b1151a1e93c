"""Optimizers and learning rates: poly for the static network (A.1), two phases where there is a cell (6.4.2)."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from fvcore.common.param_scheduler import ConstantParamScheduler
from torch import nn

from adet_ext.d2.config import CfgNode
from adet_ext.d2.solver import LRMultiplier, maybe_add_gradient_clipping
from adet_ext.engine.optimizer import build_optimizer
from adet_ext.errors import UserError

__all__ = ["GroupLRMultiplier", "JointOptimizer", "build_video_lr_scheduler", "build_video_optimizer"]

_CELL = "cell"  # marks the groups of the cell


class JointOptimizer(torch.optim.Optimizer):
    """Several optimizers as one, whose groups and states are theirs.

    A group whose learning rate is zero waits: neither its parameters nor their momenta change.
    """

    def __init__(self, parts: Sequence[torch.optim.Optimizer]):
        self.parts = list(parts)
        super().__init__([group for part in self.parts for group in part.param_groups], {})
        self._share()

    def _share(self) -> None:
        """Let the parts work on the groups and states of this one."""
        groups = iter(self.param_groups)
        for part in self.parts:
            part.param_groups = [next(groups) for _ in part.param_groups]
            part.state = self.state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # makes new groups and states
        self._share()

    @torch.no_grad()
    def step(self, closure: Callable | None = None) -> None:
        if closure is not None:
            raise ValueError("a JointOptimizer takes no closure")
        for group in self.param_groups:
            if group["lr"] == 0:
                for parameter in group["params"]:
                    parameter.grad = None
        for part in self.parts:
            part.step()


class GroupLRMultiplier(LRMultiplier):
    """:class:`LRMultiplier` with a multiplier for each group: a function of the iteration."""

    def __init__(self, optimizer: torch.optim.Optimizer, multipliers: Sequence[Callable[[int], float]], max_iter: int):
        self._multipliers = list(multipliers)
        super().__init__(optimizer, ConstantParamScheduler(1.0), max_iter)

    def get_lr(self) -> list[float]:
        return [lr * multiplier(self.last_epoch) for lr, multiplier in zip(self.base_lrs, self._multipliers)]


def build_video_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """Return the optimizer of SOLVER for the static network; with Adam for the cell beside it where there is one."""
    if model.cell is None:
        return build_optimizer(cfg, model)
    static = nn.ModuleDict({"backbone": model.backbone, "decoder": model.decoder})
    adam = maybe_add_gradient_clipping(cfg, torch.optim.Adam)
    cell = adam([{"params": list(model.cell.parameters()), "part": _CELL}], lr=cfg.MODEL.VIDEO.SOLVER.CELL_LR)
    return JointOptimizer([cell, build_optimizer(cfg, static)])


def build_video_lr_scheduler(cfg: CfgNode, optimizer: torch.optim.Optimizer) -> GroupLRMultiplier:
    """Return the learning rates that MODEL.VIDEO.SOLVER describes.

    Without a cell: warm-up and poly over all iterations. With one: the cell's stays, and the static network's is zero,
    for CELL_ITERS iterations; from there on both follow poly, the cell's times JOINT_CELL_FACTOR.

    Raises:
        UserError: the values do not fit.
    """
    node, max_iter = cfg.MODEL.VIDEO.SOLVER, cfg.SOLVER.MAX_ITER
    _check(node, max_iter)
    joint = isinstance(optimizer, JointOptimizer)
    start = node.CELL_ITERS if joint else 0

    def fall(iteration: int) -> float:
        left = max(0.0, 1 - (iteration - start) / max(1, max_iter - start))
        return left**node.POLY_POWER if node.POLY_POWER else 1.0

    def static(iteration: int) -> float:
        return 0.0 if iteration < start else fall(iteration) * _warm_up(cfg, iteration - start)

    def cell(iteration: int) -> float:
        return 1.0 if iteration < start else node.JOINT_CELL_FACTOR * fall(iteration)

    multipliers = [cell if group.get("part") == _CELL else static for group in optimizer.param_groups]
    return GroupLRMultiplier(optimizer, multipliers, max_iter)


def _warm_up(cfg: CfgNode, iteration: int) -> float:
    solver = cfg.SOLVER
    if iteration >= solver.WARMUP_ITERS:
        return 1.0
    if solver.WARMUP_METHOD == "constant":
        return solver.WARMUP_FACTOR
    return solver.WARMUP_FACTOR + (1 - solver.WARMUP_FACTOR) * iteration / solver.WARMUP_ITERS


def _check(node: CfgNode, max_iter: int) -> None:
    for key, least in (("POLY_POWER", 0), ("CELL_LR", 0), ("JOINT_CELL_FACTOR", 0)):
        if not node[key] >= least:
            raise UserError(f"MODEL.VIDEO.SOLVER.{key} must be {least} or more; got {node[key]}")
    if not 0 <= node.CELL_ITERS <= max_iter:
        raise UserError(
            f"MODEL.VIDEO.SOLVER.CELL_ITERS must be from 0 to SOLVER.MAX_ITER, {max_iter}; got {node.CELL_ITERS}"
        )

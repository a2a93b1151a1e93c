"""Optimizers and learning-rate schedules."""

from . import ENGINE

if ENGINE == "detectron2":
    from detectron2.solver import (
        LRMultiplier,
        build_lr_scheduler,
        build_optimizer,
        get_default_optimizer_params,
    )
    from detectron2.solver.build import maybe_add_gradient_clipping
else:
    from .embedded.solver import (
        LRMultiplier,
        build_lr_scheduler,
        build_optimizer,
        get_default_optimizer_params,
        maybe_add_gradient_clipping,
    )

__all__ = [
    "LRMultiplier",
    "build_lr_scheduler",
    "build_optimizer",
    "get_default_optimizer_params",
    "maybe_add_gradient_clipping",
]

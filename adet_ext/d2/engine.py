"""Training loop, hooks, default trainer, and the start of jobs of several processes.

``launch`` is the same for both engines, because Detectron2's does not support processes of torchrun.
"""

from . import ENGINE

if ENGINE == "detectron2":
    from unittest import mock

    from detectron2.engine import (
        AMPTrainer,
        HookBase,
        SimpleTrainer,
        TrainerBase,
        default_argument_parser,
        default_setup,
        default_writers,
        hooks,
    )
    from detectron2.engine import defaults as _defaults

    _create_ddp_model = _defaults.create_ddp_model

    def create_ddp_model(model, **kwargs):
        """Call Detectron2's function, but do not bind models on the CPU to a GPU."""
        if not next(model.parameters()).is_cuda:
            kwargs.setdefault("device_ids", None)
        return _create_ddp_model(model, **kwargs)

    class DefaultTrainer(_defaults.DefaultTrainer):
        """Detectron2's trainer, which can also train in several processes on the CPU."""

        def __init__(self, cfg):
            with mock.patch.object(_defaults, "create_ddp_model", create_ddp_model):
                super().__init__(cfg)
else:
    from .embedded.engine import (
        AMPTrainer,
        DefaultTrainer,
        HookBase,
        SimpleTrainer,
        TrainerBase,
        create_ddp_model,
        default_argument_parser,
        default_setup,
        default_writers,
        hooks,
    )

from .launch import DEFAULT_TIMEOUT, launch

__all__ = [
    "AMPTrainer",
    "DEFAULT_TIMEOUT",
    "DefaultTrainer",
    "HookBase",
    "SimpleTrainer",
    "TrainerBase",
    "create_ddp_model",
    "default_argument_parser",
    "default_setup",
    "default_writers",
    "hooks",
    "launch",
]

"""Training loop, hooks, default trainer, and the start of jobs of several processes.

``launch`` is the same with either engine: Detectron2's does not know processes that torchrun has started.
"""

from . import ENGINE

if ENGINE == "detectron2":
    from detectron2.engine import (
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

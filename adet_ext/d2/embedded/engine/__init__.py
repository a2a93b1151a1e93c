"""Training loop, hooks and the default trainer of the embedded engine."""

from . import hooks
from .defaults import DefaultTrainer
from .setup import create_ddp_model, default_argument_parser, default_setup, default_writers
from .train_loop import AMPTrainer, HookBase, SimpleTrainer, TrainerBase

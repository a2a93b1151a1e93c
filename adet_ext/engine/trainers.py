"""Which trainer trains a model: the package's own, or the one that a project has for its meta-architecture."""

from ..d2.config import CfgNode
from .trainer import Trainer

__all__ = ["add_project_trainer", "trainer_of"]

_TRAINERS: dict[str, type[Trainer]] = {}


def add_project_trainer(meta_architecture: str, trainer: type[Trainer]) -> None:
    """Let the commands train models of MODEL.META_ARCHITECTURE ``meta_architecture`` with ``trainer``.

    A project calls this when it is imported, as it registers its models then.
    """
    _TRAINERS[meta_architecture] = trainer


def trainer_of(cfg: CfgNode) -> type[Trainer]:
    """Return the trainer of a config's model."""
    return _TRAINERS.get(cfg.MODEL.META_ARCHITECTURE, Trainer)

"""Training of segmenters of videos: the package's trainer, with two phases where there is a cell (thesis 6.4.2)."""

import logging
from typing import Any

import torch

from adet_ext.d2.config import CfgNode
from adet_ext.d2.engine import HookBase
from adet_ext.d2.utils import comm
from adet_ext.engine.trainer import Trainer
from adet_ext.errors import UserError

from .solver import build_video_lr_scheduler, build_video_optimizer

__all__ = ["CellFirst", "VideoTrainer"]

logger = logging.getLogger(__name__)


class CellFirst(HookBase):
    """Trains the cell alone up to an iteration, then the static network too.

    It has no state: the iteration says in which phase a resumed run is.
    """

    def __init__(self, model: torch.nn.Module, iterations: int):
        self._model, self._iterations = model, iterations

    def before_step(self) -> None:
        learns = self.trainer.iter >= self._iterations
        if learns != self._model.static_learns:
            what = "The static network learns too" if learns else "The cell is trained alone"
            logger.info("%s from iteration %d on", what, self.trainer.iter)
            self._model.let_static_learn(learns)


class VideoTrainer(Trainer):
    """Trains a :class:`~.segmentor.VideoSegmentor`, without a cell or with one; see :mod:`~.solver`."""

    def __init__(self, cfg: CfgNode):
        _check(cfg)
        super().__init__(cfg)

    def build_hooks(self) -> list[HookBase | None]:
        model = getattr(self.model, "module", self.model)  # below DistributedDataParallel
        first = [CellFirst(model, self.cfg.MODEL.VIDEO.SOLVER.CELL_ITERS)] if model.cell is not None else []
        return [*first, *super().build_hooks()]

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: torch.nn.Module) -> torch.optim.Optimizer:
        return build_video_optimizer(cfg, model)

    @classmethod
    def build_lr_scheduler(cls, cfg: CfgNode, optimizer: torch.optim.Optimizer) -> Any:
        return build_video_lr_scheduler(cfg, optimizer)


def _check(cfg: CfgNode) -> None:
    """Refuse what would stop the training at its first batch.

    Raises:
        UserError: naming the key.
    """
    if cfg.MODEL.VIDEO.CELL and cfg.INPUT.VIDEO.FRAMES < 2:
        raise UserError(
            f"INPUT.VIDEO.FRAMES must be 2 or more to train a cell, which starts at the second; got "
            f"{cfg.INPUT.VIDEO.FRAMES}"
        )
    processes = comm.get_world_size()
    if cfg.SOLVER.IMS_PER_BATCH < 2 * processes:
        raise UserError(
            f"SOLVER.IMS_PER_BATCH must be {2 * processes} or more, two for each process, because global pooling has a "
            f"batch norm over the batch; got {cfg.SOLVER.IMS_PER_BATCH}"
        )

"""Training: Detectron2's DefaultTrainer with what long runs need beside it.

Batches are a function of the seed and the iteration, so that a run which was killed and resumed goes on with the very
batches it would have seen; checkpoints survive a crash at any byte; a loss that is not finite names its images.
"""

import logging
import os
import weakref
from collections.abc import Iterator
from typing import Any

import torch
import yaml

from ..d2.config import CfgNode
from ..d2.data import MetadataCatalog
from ..d2.engine import DefaultTrainer, default_setup
from ..d2.evaluation import (
    COCOEvaluator,
    DatasetEvaluator,
    DatasetEvaluators,
    SemSegEvaluator,
)
from ..d2.layers import NaiveSyncBatchNorm
from ..d2.solver import build_optimizer, get_default_optimizer_params, maybe_add_gradient_clipping
from ..d2.utils import comm, setup_logger
from ..data.loader import build_test_loader, build_train_loader
from ..data.register import num_classes_of
from ..errors import UserError
from ..evaluation.lvis import LVISEvaluator
from ..evaluation.panoptic import COCOPanopticEvaluator
from .checkpoint import AdetCheckpointer

__all__ = ["Trainer", "setup"]

logger = logging.getLogger(__name__)


def setup(cfg: CfgNode, args: Any) -> CfgNode:
    """Prepare a run: a seed on record, the output folder, logging, the config beside it; then freeze ``cfg``.

    A seed below 0 asks for a random one; it is drawn here and written to the output folder's ``config.yaml``, from
    where a resumed run takes it.
    """
    if cfg.SEED < 0:
        recorded = os.path.join(cfg.OUTPUT_DIR, "config.yaml")
        if getattr(args, "resume", False) and os.path.isfile(recorded):
            with open(recorded, encoding="utf-8") as f:
                cfg.SEED = int(yaml.safe_load(f).get("SEED", -1))
        if cfg.SEED < 0:
            cfg.SEED = comm.shared_random_seed()
    check_device(cfg)
    check_classes(cfg)
    cfg.freeze()
    default_setup(cfg, args)
    setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), name="adet_ext")
    return cfg


def check_device(cfg: CfgNode) -> None:
    """Refuse a GPU that is not there; torch would speak of drivers, and of no key.

    Raises:
        UserError: ``MODEL.DEVICE`` is cuda, and torch finds no GPU.
    """
    if cfg.MODEL.DEVICE.startswith("cuda") and not torch.cuda.is_available():
        why = "this torch is built without CUDA" if torch.version.cuda is None else "torch finds no GPU here"
        raise UserError(f"MODEL.DEVICE is {cfg.MODEL.DEVICE}, but {why}; add MODEL.DEVICE cpu to run on the CPU")


def check_classes(cfg: CfgNode) -> None:
    """Refuse a model whose number of classes is not the training sets'.

    Raises:
        UserError: naming both numbers and the keys to set.
    """
    if not cfg.DATASETS.TRAIN:
        return
    found = num_classes_of(cfg.DATASETS.TRAIN)
    wrong = {}
    if cfg.MODEL.FCOS.NUM_CLASSES != found:
        wrong["MODEL.FCOS.NUM_CLASSES"] = cfg.MODEL.FCOS.NUM_CLASSES
    if cfg.MODEL.BASIS_MODULE.LOSS_ON and cfg.MODEL.BASIS_MODULE.NUM_CLASSES != found:
        wrong["MODEL.BASIS_MODULE.NUM_CLASSES"] = cfg.MODEL.BASIS_MODULE.NUM_CLASSES
    if found and wrong:
        keys = " and ".join(f"{key} is {value}" for key, value in wrong.items())
        raise UserError(f"the training data {', '.join(cfg.DATASETS.TRAIN)} has {found} classes, but {keys}")
    # The key is on by default in Detectron2, where other architectures do not look at it.
    if cfg.MODEL.META_ARCHITECTURE == "BlendMask" and cfg.MODEL.PANOPTIC_FPN.COMBINE.ENABLED:
        _check_stuff(cfg)


def _check_stuff(cfg: CfgNode) -> None:
    for name in cfg.DATASETS.TRAIN:
        stuff = MetadataCatalog.get(name).get("stuff_classes")
        if stuff is None:
            raise UserError(
                f"the training data {name} has no stuff to learn panoptic segmentation from; name a panoptic data set "
                "such as coco_2017_train_panoptic_separated, or set MODEL.PANOPTIC_FPN.COMBINE.ENABLED to False"
            )
        if len(stuff) != cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES:
            raise UserError(
                f"the training data {name} has {len(stuff)} semantic classes ({', '.join(stuff)}), but "
                f"MODEL.SEM_SEG_HEAD.NUM_CLASSES is {cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES}"
            )


class Remembering:
    """A data loader that remembers the file names of the batch it gave last."""

    def __init__(self, loader):
        self.loader = loader
        self.file_names: list[str] = []

    def __iter__(self) -> Iterator[list[dict]]:
        for batch in self.loader:
            self.file_names = [str(x.get("file_name", "an image without a file name")) for x in batch]
            yield batch


class Trainer(DefaultTrainer):
    """Trains what a config describes; made and used as Detectron2's DefaultTrainer is."""

    def build_hooks(self):
        # Before the hooks, of which one holds the checkpointer.
        self.checkpointer = AdetCheckpointer(self.checkpointer.model, self.cfg.OUTPUT_DIR, trainer=weakref.proxy(self))
        return super().build_hooks()

    def resume_or_load(self, resume: bool = True) -> None:
        """Load the last checkpoint of the output folder if ``resume``, else ``MODEL.WEIGHTS``; the data go on where
        the checkpoint was written."""
        super().resume_or_load(resume=resume)
        if self.start_iter > 0:
            self._trainer.reset_data_loader(
                lambda: Remembering(build_train_loader(self.cfg, start_iter=self.start_iter))
            )

    def run_step(self) -> None:
        try:
            super().run_step()
        except FloatingPointError as error:
            names = ", ".join(self._trainer.data_loader.file_names)
            what = " ".join(str(error).split())
            raise FloatingPointError(
                f"{what} The batch of iteration {self.iter}: {names}. The weights were not updated with it and the "
                f"checkpoints in {self.cfg.OUTPUT_DIR} are as they were; lower SOLVER.BASE_LR or switch on "
                "SOLVER.CLIP_GRADIENTS, and go on with --resume"
            ) from error

    @classmethod
    def build_model(cls, cfg: CfgNode) -> torch.nn.Module:
        try:
            model = super().build_model(cfg)
        except (ValueError, KeyError, AssertionError) as error:  # constructors, of what does not fit together
            raise UserError(" ".join(str(error.args[0] if error.args else error).split())) from error
        if comm.get_world_size() > 1 and next(model.parameters()).device.type == "cpu":
            # torch's own synchronised norm runs on GPUs alone.
            model = _with_naive_sync_norm(model)
        return model

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: torch.nn.Module) -> torch.optim.Optimizer:
        kind = cfg.SOLVER.OPTIMIZER.upper()
        if kind == "SGD":
            return build_optimizer(cfg, model)
        if kind != "ADAMW":
            raise UserError(f"SOLVER.OPTIMIZER is {cfg.SOLVER.OPTIMIZER!r}; it can be SGD or ADAMW")
        groups = get_default_optimizer_params(
            model,
            base_lr=cfg.SOLVER.BASE_LR,
            weight_decay_norm=cfg.SOLVER.WEIGHT_DECAY_NORM,
            bias_lr_factor=cfg.SOLVER.BIAS_LR_FACTOR,
            weight_decay_bias=cfg.SOLVER.WEIGHT_DECAY_BIAS,
        )
        adamw = maybe_add_gradient_clipping(cfg, torch.optim.AdamW)
        return adamw(groups, lr=cfg.SOLVER.BASE_LR, weight_decay=cfg.SOLVER.WEIGHT_DECAY)

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> Remembering:
        return Remembering(build_train_loader(cfg))

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str):
        return build_test_loader(cfg, dataset_name)

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str, output_folder: str | None = None) -> DatasetEvaluator:
        output_folder = output_folder or os.path.join(cfg.OUTPUT_DIR, "inference")
        kind = MetadataCatalog.get(dataset_name).get("evaluator_type", None)
        evaluators: list[DatasetEvaluator] = []
        if kind in ("coco", "coco_panoptic_seg"):
            # A ground truth converted earlier may be of other data by now, so it is never taken from there.
            evaluators.append(COCOEvaluator(dataset_name, output_dir=output_folder, allow_cached_coco=False))
        if kind in ("sem_seg", "coco_panoptic_seg"):
            evaluators.append(SemSegEvaluator(dataset_name, distributed=True, output_dir=output_folder))
        if kind == "lvis":
            evaluators.append(LVISEvaluator(dataset_name, output_dir=output_folder))
        if kind == "coco_panoptic_seg":
            evaluators.append(COCOPanopticEvaluator(dataset_name, output_folder))
        if not evaluators:
            raise UserError(
                f"there is no evaluator for data set {dataset_name}, whose evaluator_type is {kind!r}; set "
                "MetadataCatalog.get(name).evaluator_type to coco, lvis, sem_seg or coco_panoptic_seg"
            )
        return evaluators[0] if len(evaluators) == 1 else DatasetEvaluators(evaluators)


def _with_naive_sync_norm(module: torch.nn.Module) -> torch.nn.Module:
    if isinstance(module, torch.nn.SyncBatchNorm):
        new = NaiveSyncBatchNorm(module.num_features, eps=module.eps, momentum=module.momentum)
        new.load_state_dict(module.state_dict())
        return new
    for name, child in module.named_children():
        setattr(module, name, _with_naive_sync_norm(child))
    return module

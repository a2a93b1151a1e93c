"""How good a path of the trained supernet is: its PQ on the search's validation images, with statistics of its own.

:func:`make_evaluate` is what a search calls, by the name ``auto_panoptic.shared_weights:make_evaluate``.
"""

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from adet_ext.cli.project_search import config_of
from adet_ext.d2.config import CfgNode
from adet_ext.d2.evaluation import inference_on_dataset
from adet_ext.d2.modeling import build_model
from adet_ext.data.loader import build_test_loader, build_train_loader
from adet_ext.engine.checkpoint import AdetCheckpointer
from adet_ext.errors import UserError
from adet_ext.evaluation.panoptic import COCOPanopticEvaluator
from adet_ext.nas.evaluation import Outcome, Task
from adet_ext.nas.proxies import timed

from .architecture import Architecture
from .model import AutoPanopticSupernet
from .space import build_space
from .split import split_sets, with_training_set

__all__ = ["SharedWeights", "make_evaluate", "panoptic_quality", "recalibrate"]


def make_evaluate(settings: dict) -> Callable[[Task], Outcome]:
    """Return the evaluation of one architecture.

    Args:
        settings: see :func:`~adet_ext.cli.project_search.config_of`.
    """
    return SharedWeights(config_of(settings)).evaluate


class SharedWeights:
    """Evaluates paths of the supernet in MODEL.WEIGHTS.

    Raises:
        UserError: images, weights or settings are missing or do not fit.
    """

    def __init__(self, cfg: CfgNode):
        node = cfg.MODEL.AUTO_PANOPTIC.SEARCH
        for key in ("CALIBRATION_IMAGES", "CALIBRATION_BATCH"):
            if node[key] < 1:
                raise UserError(f"MODEL.AUTO_PANOPTIC.SEARCH.{key} must be 1 or more; got {node[key]}")
        if not cfg.MODEL.WEIGHTS:
            raise UserError("MODEL.WEIGHTS must be a trained supernet; got none. Train one with train_net.py first")
        self.cfg, self.space = cfg, build_space(cfg)
        training, self.validation = split_sets(cfg, evaluated=True)
        model = build_model(cfg)
        if not isinstance(model, AutoPanopticSupernet):
            raise UserError(f"MODEL.META_ARCHITECTURE must be AutoPanopticSupernet; got {type(model).__name__}")
        AdetCheckpointer(model).load_to_predict(cfg.MODEL.WEIGHTS)
        self.model = model.eval().requires_grad_(False)
        self._images = self._calibration_images(training)

    def _calibration_images(self, training: str) -> list[list[dict]]:
        """Return the first batches of a training, as uint8 images."""
        cfg, node = with_training_set(self.cfg, training), self.cfg.MODEL.AUTO_PANOPTIC.SEARCH
        cfg.SOLVER.IMS_PER_BATCH, cfg.SEED = node.CALIBRATION_BATCH, max(cfg.SEED, 0)
        count = -(-node.CALIBRATION_IMAGES // node.CALIBRATION_BATCH)
        batches = itertools.islice(build_train_loader(cfg), count)
        return [[{"image": x["image"]} for x in batch] for batch in batches]

    def evaluate(self, task: Task) -> Outcome:
        """Return PQ in percent as the reward; the metrics have PQ of things and of stuff, and the backbone's cost."""
        seconds: Counter[str] = Counter()
        architecture = self.space.architecture(task.tokens)
        with timed(seconds, "calibration"):
            self.calibrate(architecture)
        with timed(seconds, "validation"):
            found = panoptic_quality(self.cfg, self.model, self.validation)
        multiply_adds, parameters = self.space.cost.of(architecture.backbone)
        metrics = {"PQ_th": found["PQ_th"], "PQ_st": found["PQ_st"]}
        metrics |= {"backbone_multiply_adds": multiply_adds, "backbone_parameters": parameters}
        return Outcome(found["PQ"], metrics, seconds=seconds)

    def calibrate(self, architecture: Architecture) -> None:
        """Let an architecture compute from now on, with batch-norm statistics that depend on nothing before."""
        self.model.choose(architecture)
        body = self.model.backbone.bottom_up
        recalibrate(body, (self.model.preprocess_image(batch).tensor for batch in self._images))


def panoptic_quality(cfg: CfgNode, model: nn.Module, name: str) -> dict[str, float]:
    """Return PQ, SQ and RQ of a model on the data set ``name``, in percent."""
    return inference_on_dataset(model, build_test_loader(cfg, name), COCOPanopticEvaluator(name))["panoptic_seg"]


def recalibrate(body: nn.Module, batches: Iterable[torch.Tensor]) -> None:
    """Replace the running statistics of all batch norms of ``body`` by the means over ``batches``.

    Args:
        batches: inputs of ``body``. Norms that they do not reach end with mean 0 and variance 1.
    """
    norms = [module for module in body.modules() if isinstance(module, _BatchNorm)]
    with _averaging(norms), torch.no_grad():
        for batch in batches:
            body(batch)


@contextmanager
def _averaging(norms: list[_BatchNorm]) -> Iterator[None]:
    """Let norms gather statistics from nothing on, every batch with the same weight."""
    before = [(norm, norm.training, norm.momentum) for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.training = True
    try:
        yield
    finally:
        for norm, training, momentum in before:
            norm.training, norm.momentum = training, momentum

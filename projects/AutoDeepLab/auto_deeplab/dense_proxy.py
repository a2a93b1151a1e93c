"""The proxy task of dense prediction cells: train a head on the features of a frozen backbone; the reward is mIoU.

:func:`make_evaluate` is what a search calls, by the name ``auto_deeplab.dense_proxy:make_evaluate``.
"""

import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from adet_ext.cli.project_search import config_of
from adet_ext.d2.config import CfgNode
from adet_ext.data.loader import dataset_dicts
from adet_ext.data.scene_augmentation import SceneAugmentation
from adet_ext.data.semantic_mapper import SemanticMapper
from adet_ext.engine.frozen import build_frozen
from adet_ext.errors import UserError
from adet_ext.evaluation.confusion import count_pairs, semantic_scores
from adet_ext.nas.evaluation import Outcome, Task
from adet_ext.nas.feature_cache import FeatureCache
from adet_ext.nas.proxies import keep_features, print_progress, timed, train_and_score

from .dpc import DenseCell, DenseGenotype, DenseSpace
from .head import AtrousHead

__all__ = ["DenseProxy", "build_dense_space", "make_evaluate"]


def make_evaluate(settings: dict) -> Callable[[Task], Outcome]:
    """Return the evaluation of one cell.

    Args:
        settings: see :func:`~adet_ext.cli.project_search.config_of`.
    """
    return DenseProxy(config_of(settings), print_progress).evaluate


def build_dense_space(cfg: CfgNode) -> DenseSpace:
    """Return the space of ``MODEL.ATROUS_HEAD.SEARCH.BRANCHES`` branches."""
    branches = cfg.MODEL.ATROUS_HEAD.SEARCH.BRANCHES
    if branches < 1:
        raise UserError(f"MODEL.ATROUS_HEAD.SEARCH.BRANCHES must be 1 or more; got {branches}")
    return DenseSpace(branches)


class DenseProxy:
    """Trains heads on features of MODEL.BACKBONE with MODEL.WEIGHTS.

    Args:
        cfg: a semantic model with AtrousHead; MODEL.ATROUS_HEAD.SEARCH is the proxy task.
        progress: is called with the number of images whose features are computed, and how many there are.

    Raises:
        UserError: images, weights or settings are missing or do not fit.
    """

    def __init__(self, cfg: CfgNode, progress: Callable[[int, int], None] = lambda done, total: None):
        self.cfg, self.node = cfg, cfg.MODEL.ATROUS_HEAD.SEARCH
        self.seed = max(cfg.SEED, 0)
        self.space = build_dense_space(cfg)
        self.model = self._load_model()
        self.device = self.model.device
        self.records = self._read_records()
        count = round(self.node.VAL_FRACTION * len(self.records))
        if not 0 < count < len(self.records):
            raise UserError(
                f"the search must have images to train on and others to validate on; got {len(self.records)} and "
                f"MODEL.ATROUS_HEAD.SEARCH.VAL_FRACTION {self.node.VAL_FRACTION}"
            )
        order = random.Random(f"split {self.seed}").sample(range(len(self.records)), len(self.records))
        self.val, self.train = sorted(order[:count]), sorted(order[count:])
        self.mapper = _mapper(cfg)
        self._labels: dict[int, torch.Tensor] = {}
        self.cache = self._build_cache(progress) if self.node.CACHE else None

    def _load_model(self) -> nn.Module:
        model = build_frozen(self.cfg, self.seed, "backbone", "backbone")
        if not isinstance(getattr(model, "sem_seg_head", None), AtrousHead):
            raise UserError(
                f"MODEL.SEM_SEG_HEAD.NAME must be AtrousHead for a search; got {self.cfg.MODEL.SEM_SEG_HEAD.NAME}"
            )
        return model

    def _read_records(self) -> list[dict]:
        records = dataset_dicts(self.cfg.DATASETS.TRAIN, "DATASETS.TRAIN", filter_empty=False)
        if self.node.IMAGES > len(records):
            raise UserError(
                f"MODEL.ATROUS_HEAD.SEARCH.IMAGES must be at most {len(records)}, the images of "
                f"{', '.join(self.cfg.DATASETS.TRAIN)}; got {self.node.IMAGES}"
            )
        count = self.node.IMAGES or len(records)
        return [records[i] for i in sorted(random.Random(self.seed).sample(range(len(records)), count))]

    @torch.no_grad()
    def _compute(self, numbers: Sequence[int]) -> dict[str, torch.Tensor]:
        images = torch.stack([self.mapper(dict(self.records[i]))["image"] for i in numbers]).to(self.device)
        features = self.model.backbone((images - self.model.pixel_mean) / self.model.pixel_std)
        return {name: features[name] for name in self.model.sem_seg_head.in_features}

    def _build_cache(self, progress: Callable[[int, int], None]) -> FeatureCache:
        cfg, files = self.cfg, [record["file_name"] for record in self.records]
        settings = {
            "input": [cfg.INPUT.FORMAT, cfg.INPUT.SEMANTIC.LONGER_SIDE, cfg.INPUT.SEMANTIC.PAD_TO],
            "normalize": [list(cfg.MODEL.PIXEL_MEAN), list(cfg.MODEL.PIXEL_STD)],
            "model": [cfg.MODEL.BACKBONE.NAME, self.model.sem_seg_head.in_features],
        }
        node = self.node
        return keep_features(
            node.CACHE, node.CACHE_LIMIT_GB, self._compute, files, self.model.backbone, settings, progress
        )

    def _batch(self, numbers: Sequence[int]) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """Return features by name (N, ...), and labels (N, H, W)."""
        features = self._compute(numbers) if self.cache is None else self.cache.batch(numbers)
        for number in numbers:
            if number not in self._labels:
                self._labels[number] = self.mapper(dict(self.records[number]))["sem_seg"].byte()
        labels = torch.stack([self._labels[number] for number in numbers]).to(self.device).long()
        return {name: x.to(self.device) for name, x in features.items()}, labels

    def evaluate(self, task: Task) -> Outcome:
        """Train the head and return its mIoU; stop half-way if that is not above the threshold.

        Raises:
            FloatingPointError: the loss is not finite.
        """
        torch.manual_seed(task.seed)
        seconds: Counter[str] = Counter()
        head = self.build(self.space.genotype(task.tokens))
        return train_and_score(
            task,
            self._train(head, task.seed, seconds),
            max(1, self.node.ITERATIONS // 2),
            lambda _: self._reward(head, seconds),
            seconds,
        )

    def _reward(self, head: AtrousHead, seconds: Counter) -> tuple[float, dict[str, float]]:
        metrics = self.validate(head, seconds)
        return metrics["mIoU"], metrics

    def build(self, genotype: DenseGenotype) -> AtrousHead:
        """Return a head with a cell, with random weights."""
        node = self.cfg.MODEL.ATROUS_HEAD
        shapes = self.model.backbone.output_shape()
        parts = AtrousHead.from_config(self.cfg, shapes)
        inputs = shapes[parts["in_features"][-1]].channels
        parts["pyramid"] = DenseCell(
            genotype, inputs, node.WIDTH, rate_factor=node.RATE_FACTOR, dropout=node.DROPOUT, make_norm=nn.BatchNorm2d
        )
        return AtrousHead(**parts).to(self.device)

    def _train(self, head: AtrousHead, seed: int, seconds: Counter) -> Iterator[float]:
        """Train for ITERATIONS steps of Adam; yield the loss after each."""
        optimizer = torch.optim.Adam(head.parameters(), lr=self.node.LR)
        generator = np.random.default_rng(seed)
        size = min(self.node.BATCH, len(self.train))
        head.train()
        for step in range(self.node.ITERATIONS):
            with timed(seconds, "features"):
                features, labels = self._batch(generator.choice(self.train, size, replace=False).tolist())
            with timed(seconds, "training"):
                loss = head(features, labels)[1]["loss_sem_seg"]
                if not torch.isfinite(loss):
                    raise FloatingPointError(f"the loss is {float(loss.detach())} in step {step}")
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
            yield float(loss.detach())

    @torch.no_grad()
    def validate(self, head: AtrousHead, seconds: Counter | None = None) -> dict[str, float]:
        """Return mIoU, mAcc and gAcc on the images for validation, at the size of the network's input."""
        classes, confusion = self.cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES, 0
        head.eval()
        with timed(Counter() if seconds is None else seconds, "validation"):
            for start in range(0, len(self.val), self.node.BATCH):
                features, labels = self._batch(self.val[start : start + self.node.BATCH])
                logits = F.interpolate(head(features)[0], size=labels.shape[-2:], mode="bilinear", align_corners=False)
                found = logits.argmax(1).cpu().numpy()
                confusion = confusion + count_pairs(labels.cpu().numpy(), found, classes, head.ignore_value)
        head.train()
        scores = semantic_scores(confusion)
        return {name: float(scores[name]) for name in ("mIoU", "mAcc", "gAcc")}


def _mapper(cfg: CfgNode) -> SemanticMapper:
    """Return a mapper that resizes and pads alone, images and labels alike."""
    keys = cfg.INPUT.SEMANTIC
    mean = tuple(cfg.MODEL.PIXEL_MEAN) if keys.PAD_VALUE == "mean" else (0, 0, 0)
    return SemanticMapper(
        is_train=True,
        augmentation=SceneAugmentation(longer_side=keys.LONGER_SIDE, pad_to=keys.PAD_TO, pad_color=mean),
        image_format=cfg.INPUT.FORMAT,
        num_classes=cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES,
    )

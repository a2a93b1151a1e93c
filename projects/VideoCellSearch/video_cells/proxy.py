"""The proxy task (thesis 6.3.3, 6.4.1): train a cell on what the frozen static network gives, and reward it by the
geometric mean of mIoU, fwIoU and mAcc on meta-val.

:func:`make_evaluate` is what a search calls, by the name ``video_cells.proxy:make_evaluate``.

B sequences of T frames of H x W pixels, C classes.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch.nn import functional as F

from adet_ext.cli.project_search import config_of
from adet_ext.d2.config import CfgNode
from adet_ext.engine.frozen import build_frozen
from adet_ext.evaluation.confusion import count_pairs, semantic_scores
from adet_ext.nas.evaluation import Outcome, Task
from adet_ext.nas.feature_cache import FeatureCache
from adet_ext.nas.proxies import keep_features, print_progress, timed, train_and_score
from adet_ext.nas.reward import geometric_mean

from .cell import DynamicCell, FrameState
from .genotype import CellGenotype
from .losses import segmentation_loss
from .proxy_data import Frames, read_frames
from .search_space import build_space
from .segmentor import VideoSegmentor, build_cell

__all__ = ["METRICS", "Proxy", "make_evaluate"]

METRICS = ("mIoU", "fwIoU", "mAcc")  # those of the reward
_KEPT = ("layer2", "layer3", "layer4", "dec")
_STRIDE = 32  # the largest, on whose grid frames are cropped


def make_evaluate(settings: dict) -> Callable[[Task], Outcome]:
    """Return the evaluation of one architecture.

    Args:
        settings: see :func:`~adet_ext.cli.project_search.config_of`.
    """
    return Proxy(config_of(settings), print_progress).evaluate


class FrameSet:
    """Frames with what the static network gives for them, from a cache if there is one."""

    def __init__(self, frames: Frames, compute: Callable[[Sequence[int]], dict[str, torch.Tensor]]):
        self.frames, self.compute = frames, compute
        self.cache: FeatureCache | None = None
        self._labels: dict[int, torch.Tensor] = {}

    def features(self, numbers: Sequence[int]) -> dict[str, torch.Tensor]:
        """Return *layers 2 to 4* and *dec* of frames, (B, ...) each, by name."""
        return self.compute(numbers) if self.cache is None else self.cache.batch(numbers)

    def labels(self, number: int) -> torch.Tensor:
        """Return the labels of a frame, uint8 (H, W); they are kept."""
        if number not in self._labels:
            self._labels[number] = self.frames[number]["sem_segs"][0].byte()
        return self._labels[number]


class Proxy:
    """Trains cells on features of the static network of MODEL.WEIGHTS.

    Args:
        cfg: MODEL as of the static network; MODEL.VIDEO.SEARCH is the proxy task.
        progress: is called with the number of frames whose features are computed, and how many there are.

    Raises:
        UserError: frames, weights or settings are missing or do not fit.
    """

    def __init__(self, cfg: CfgNode, progress: Callable[[int, int], None] = lambda done, total: None):
        self.cfg, self.node = cfg, cfg.MODEL.VIDEO.SEARCH
        self.seed = max(cfg.SEED, 0)
        self.ignore = cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE
        self.space = build_space(cfg)
        self.static = self._load_static()
        self.device = self.static.device
        self.train, self.val = (
            FrameSet(frames, lambda numbers, frames=frames: self._compute(frames, numbers))
            for frames in read_frames(cfg, self.seed)
        )
        if self.node.CACHE:
            for name, part in (("train", self.train), ("val", self.val)):
                part.cache = self._build_cache(name, part, progress)

    # The static network -----------------------------------------------------------------------------------------------

    def _load_static(self) -> VideoSegmentor:
        cfg = self.cfg.clone()
        cfg.defrost()
        cfg.MODEL.VIDEO.CELL, cfg.MODEL.VIDEO.AUX_WEIGHT = "", 0.0
        return build_frozen(cfg, self.seed, what="static network")

    @torch.no_grad()
    def _compute(self, frames: Frames, numbers: Sequence[int]) -> dict[str, torch.Tensor]:
        features = self.static.encode(torch.cat([frames[i]["frames"] for i in numbers]))
        dec, _ = self.static.decoder(features)
        return dict(zip(_KEPT, (*features[1:], dec)))

    def _build_cache(self, name: str, part: FrameSet, progress) -> FeatureCache:
        cfg = self.cfg
        settings = {
            "input": [cfg.INPUT.FORMAT, cfg.INPUT.SEMANTIC.LONGER_SIDE, cfg.INPUT.SEMANTIC.PAD_TO, name],
            "pad": cfg.INPUT.SEMANTIC.PAD_VALUE,
            "normalize": [list(cfg.MODEL.PIXEL_MEAN), list(cfg.MODEL.PIXEL_STD)],
            "model": [cfg.MODEL.BACKBONE.NAME, cfg.MODEL.VIDEO.DECODER],
        }
        node, files = self.node, part.frames.files
        return keep_features(
            node.CACHE, node.CACHE_LIMIT_GB, part.compute, files, self.static, settings, progress, part=name
        )

    # One architecture -------------------------------------------------------------------------------------------------

    def evaluate(self, task: Task) -> Outcome:
        """Train the cell and return its reward; stop half-way if the score is not above the threshold.

        Raises:
            FloatingPointError: the loss is not finite.
        """
        torch.manual_seed(task.seed)
        seconds: Counter[str] = Counter()
        cell = self.build(self.space.genotype(task.tokens))
        return train_and_score(
            task,
            self._train(cell, seconds),
            self.node.EPOCHS // 2,
            lambda _: self._reward(cell, seconds),
            seconds,
        )

    def _reward(self, cell: DynamicCell, seconds: Counter) -> tuple[float, dict[str, float]]:
        metrics = self.validate(cell, seconds)
        return metrics.pop("reward"), metrics

    def build(self, genotype: CellGenotype) -> DynamicCell:
        """Return the cell of a genotype, with random weights."""
        cell = build_cell(self.cfg, self.static.backbone.output_shape(), genotype)
        return cell.to(self.device, memory_format=torch.channels_last)

    def _train(self, cell: DynamicCell, seconds: Counter) -> Iterator[float]:
        """Train for EPOCHS epochs; yield the last loss of each.

        All cells see the same batches in the same order: which ones they are moves a reward more than the initial
        weights do.
        """
        sequences = self.train.frames.sequences
        size = min(self.node.BATCH, len(sequences))
        optimizer = torch.optim.Adam(cell.parameters(), lr=self.node.LR)
        generator = np.random.default_rng(self.seed)
        cell.train()
        for epoch in range(self.node.EPOCHS):
            order = generator.permutation(len(sequences))
            for start in range(0, len(order) - size + 1, size):
                batch = [sequences[i] for i in order[start : start + size]]
                with timed(seconds, "features"):
                    features, labels = self._cropped(*self._read(self.train, batch), generator)
                with timed(seconds, "training"):
                    loss = self._loss(cell, features, labels)
                    if not torch.isfinite(loss):
                        raise FloatingPointError(f"the loss is {float(loss.detach())} in epoch {epoch}")
                    optimizer.zero_grad(set_to_none=True)
                    loss.backward()
                    optimizer.step()
            yield float(loss.detach())

    def _read(self, part: FrameSet, batch: Sequence[Sequence[int]]) -> tuple[list[dict], list[torch.Tensor]]:
        """Return, for each of the T frames, the features by name (B, ...) and the labels (B, H, W)."""
        features, labels = [], []
        for numbers in zip(*batch):
            found = part.features(numbers)
            features.append({n: x.to(self.device, memory_format=torch.channels_last) for n, x in found.items()})
            labels.append(torch.stack([part.labels(i) for i in numbers]).to(self.device).long())
        return features, labels

    def _cropped(self, features: list[dict], labels: list[torch.Tensor], generator) -> tuple[list[dict], list]:
        """Cut a batch to INPUT.SEMANTIC.CROP pixels at one random place on the grid of the largest stride."""
        crop, sizes = self.cfg.INPUT.SEMANTIC.CROP, labels[0].shape[-2:]
        if not crop or max(sizes) <= crop:
            return features, labels
        box = []
        for size in sizes:
            length = min(crop, size) // _STRIDE * _STRIDE
            box.append((int(generator.integers((size - length) // _STRIDE + 1)) * _STRIDE, length))

        def cut(x: torch.Tensor) -> torch.Tensor:
            strides = [2 ** round(np.log2(size / s)) for size, s in zip(sizes, x.shape[-2:])]
            (top, height), (left, width) = ((a // s, b // s) for (a, b), s in zip(box, strides))
            return x[..., top : top + height, left : left + width]

        return [{name: cut(x) for name, x in one.items()} for one in features], [cut(x) for x in labels]

    def _steps(self, cell: DynamicCell, features: Sequence[dict]) -> Iterator[torch.Tensor]:
        """Yield the logits (B, C, h, w) of the frames after the first."""
        state = FrameState(features[0]["layer4"], features[0]["dec"])
        for one in features[1:]:
            layers = [one[name] for name in ("layer2", "layer3", "layer4")]
            logits, state = cell.step(layers, state, self.static.decoder.classifier)
            yield logits

    def _loss(self, cell: DynamicCell, features: Sequence[dict], labels: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return the sum of the cross-entropies of the frames after the first (6.4)."""
        pairs = zip(self._steps(cell, features), labels[1:])
        full = self.cfg.MODEL.VIDEO.FULL_SIZE_LOSS
        return sum(segmentation_loss(x, y, self.ignore, full_size=full) for x, y in pairs)

    def validate(self, cell: DynamicCell, seconds: Counter | None = None) -> dict[str, float]:
        """Return the metrics on the frames of meta-val after the first of their sequence, and the reward of them."""
        seconds = Counter() if seconds is None else seconds
        with timed(seconds, "validation"):
            return self._validate(cell)

    @torch.no_grad()
    def _validate(self, cell: DynamicCell) -> dict[str, float]:
        classes, size = self.cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES, self.node.BATCH
        confusion = np.zeros((classes, classes), np.int64)
        cell.eval()
        sequences = self.val.frames.sequences
        for start in range(0, len(sequences), size):
            features, labels = self._read(self.val, sequences[start : start + size])
            for logits, true in zip(self._steps(cell, features), labels[1:]):
                logits = F.interpolate(logits, size=true.shape[-2:], mode="bilinear", align_corners=False)
                found = logits.argmax(1)
                confusion += count_pairs(true.cpu().numpy(), found.cpu().numpy(), classes, self.ignore)
        cell.train()
        scores = semantic_scores(confusion)
        found = {name: float(scores[name]) for name in (*METRICS, "gAcc")}
        return {"reward": geometric_mean(found[name] for name in METRICS), **found}

"""The proxy task (thesis 7.3.3, 7.4.1): train a decoder briefly on cached features, and reward it by minus its loss.

:func:`make_evaluate` is what a search calls, by the name ``nas_fcos.proxy:make_evaluate``.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch

from adet_ext.cli.project_search import config_of
from adet_ext.d2.config import CfgNode
from adet_ext.d2.structures import Instances
from adet_ext.data.proxy_images import ProxyImages, feature_settings, image_files, split
from adet_ext.engine.frozen import build_frozen
from adet_ext.evaluation.voc_ap import Detections, Truth, voc_average_precisions
from adet_ext.nas.evaluation import Outcome, Task
from adet_ext.nas.feature_cache import FeatureCache
from adet_ext.nas.proxies import keep_features, print_progress, timed, train_and_score
from adet_ext.utils.polyak import PolyakAverage

from .decoder import Decoder, build_decoder
from .genotype import FPNGenotype, HeadGenotype
from .search_space import SearchSpace, build_space

__all__ = ["Proxy", "make_evaluate"]

_AP_IOU = 0.5


def make_evaluate(settings: dict) -> Callable[[Task], Outcome]:
    """Return the evaluation of one architecture.

    Args:
        settings: see :func:`~adet_ext.cli.project_search.config_of`.
    """
    return Proxy(config_of(settings), print_progress).evaluate


class Proxy:
    """Trains decoders on features of MODEL.WEIGHTS' body, or of its pyramid where a head is searched for.

    Args:
        cfg: MODEL as of a NAS-FCOS model; MODEL.NAS_FCOS.SEARCH is the proxy task.
        progress: is called with the number of images whose features are computed, and how many there are.

    Raises:
        UserError: images, weights or settings are missing or do not fit.
    """

    def __init__(self, cfg: CfgNode, progress: Callable[[int, int], None] = lambda done, total: None):
        self.cfg, self.node = cfg, cfg.MODEL.NAS_FCOS.SEARCH
        self.seed = max(cfg.SEED, 0)
        self.device = torch.device(cfg.MODEL.DEVICE)
        self.space: SearchSpace = build_space(cfg)
        self.images = ProxyImages(cfg, "MODEL.NAS_FCOS.SEARCH", self.seed)
        self.split = split(len(self.images), self.node.VAL_FRACTION, self.seed)
        self._frozen, self.shapes = self._load_frozen()
        self.objects = [self._objects(i) for i in range(len(self.images))]
        self.cache = self._build_cache(progress) if self.node.CACHE else None

    # Features -------------------------------------------------------------------------------------------------------

    def _load_frozen(self):
        """Return what computes the features, with the weights of MODEL.WEIGHTS, and the shapes of its results."""
        whole = self.node.STAGE == "head"
        part, what = ("backbone", "backbone and FPN") if whole else ("backbone.bottom_up", "backbone")
        model = build_frozen(self.cfg, self.seed, part, what)
        self._mean, self._std = model.pixel_mean, model.pixel_std
        frozen = model.get_submodule(part)
        return frozen, frozen.output_shape()

    @torch.no_grad()
    def _compute(self, numbers: Sequence[int]) -> dict[str, torch.Tensor]:
        images = torch.stack([self.images[i]["image"] for i in numbers]).to(self.device)
        images = ((images - self._mean) / self._std).contiguous(memory_format=torch.channels_last)
        features = self._frozen(images)
        return {name: features[name] for name in self._names}

    @property
    def _names(self) -> list[str]:
        return list(self.cfg.MODEL.FCOS.IN_FEATURES if self.node.STAGE == "head" else self.cfg.MODEL.FPN.IN_FEATURES)

    def _build_cache(self, progress) -> FeatureCache:
        files = image_files(self.images)
        settings = feature_settings(self.images, self.cfg, self._names)
        node = self.node
        return keep_features(node.CACHE, node.CACHE_LIMIT_GB, self._compute, files, self._frozen, settings, progress)

    def features(self, numbers: Sequence[int]) -> dict[str, torch.Tensor]:
        """Return the features of images by name, (N, C, H, W) each, from the cache if there is one."""
        if self.cache is None:
            return self._compute(numbers)
        batch = self.cache.batch(numbers)
        return {n: x.to(self.device).contiguous(memory_format=torch.channels_last) for n, x in batch.items()}

    def _objects(self, number: int) -> Instances:
        return self.images[number]["instances"].to(self.device)

    # One architecture -----------------------------------------------------------------------------------------------

    def evaluate(self, task: Task) -> Outcome:
        """Train the architecture and return its reward; stop half-way if the score is not above the threshold.

        Raises:
            FloatingPointError: a loss is not finite.
        """
        torch.manual_seed(task.seed)
        seconds: Counter[str] = Counter()
        decoder = self.build(*self.space.genotypes(task.tokens))
        return train_and_score(
            task,
            self._train(decoder, seconds),
            max(1, self.node.ITERATIONS // 2),
            lambda average: self._reward(decoder, average, seconds),
            seconds,
        )

    def build(self, fpn: FPNGenotype | None, head: HeadGenotype | None) -> Decoder:
        """Return the decoder of genotypes; what is not searched for is as the config says."""
        return build_decoder(self.cfg, self.shapes, fpn, head).to(self.device, memory_format=torch.channels_last)

    def _train(self, decoder: Decoder, seconds: Counter) -> Iterator[PolyakAverage]:
        """Train for ITERATIONS steps; yield the average of the weights after each.

        All architectures see the same batches in the same order: which ones they are moves a reward as much as the
        initial weights do.
        """
        node, train = self.node, self.split.train
        optimizer = torch.optim.Adam(decoder.parameters(), lr=node.LR, fused=True)
        average = PolyakAverage(decoder, node.POLYAK)
        generator = np.random.default_rng(self.seed)
        decoder.train()
        order: list[int] = []
        for step in range(node.ITERATIONS):
            while len(order) < min(node.BATCH, len(train)):
                order += generator.permutation(len(train)).tolist()
            batch = [train[order.pop()] for _ in range(min(node.BATCH, len(train)))]
            with timed(seconds, "features"):
                features = self.features(batch)
            with timed(seconds, "training"):
                loss = sum(decoder.losses(features, [self.objects[i] for i in batch]).values())
                if not torch.isfinite(loss):
                    raise FloatingPointError(f"the loss is {float(loss)} at iteration {step}")
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                average.update()
            yield average

    def _reward(self, decoder: Decoder, average: PolyakAverage, seconds: Counter) -> tuple[float, dict[str, float]]:
        """Return the reward of the averaged weights on meta-val, and its parts."""
        decoder.eval()
        try:
            with timed(seconds, "validation"), average.applied(), torch.no_grad():
                if self.node.REWARD == "ap":
                    ap = self.average_precision(decoder)
                    return ap, {"AP50": ap}
                losses = self.validate(decoder)
                return -sum(losses.values()), losses
        finally:
            decoder.train()

    @torch.no_grad()
    def validate(self, decoder: Decoder) -> dict[str, float]:
        """Return FCOS' losses on meta-val (equation 7.2), as means over its images and not as sums."""
        totals: Counter[str] = Counter()
        for batch in self._val_batches():
            losses = decoder.losses(self.features(batch), [self.objects[i] for i in batch])
            for name, value in losses.items():
                totals[name] += float(value) * len(batch) / len(self.split.val)
        return dict(totals)

    @torch.no_grad()
    def average_precision(self, decoder: Decoder) -> float:
        """Return VOC's AP on meta-val at an IoU of 0.5, over all points of recall: the mean over classes."""
        found, truth = [], []
        for batch in self._val_batches():
            detections, _ = decoder.detect(self.features(batch))
            for place, number in enumerate(batch):
                keep = detections.valid[place]
                fields = (detections.boxes, detections.scores, detections.classes)
                boxes, scores, classes = (x[place][keep].cpu().numpy() for x in fields)
                found.append((np.full(len(scores), number), classes, boxes, scores))
                objects = self.objects[number]
                boxes, classes = objects.gt_boxes.tensor.cpu().numpy(), objects.gt_classes.cpu().numpy()
                truth.append((np.full(len(classes), number), classes, boxes, np.zeros(len(classes), bool)))
        truth, found = (map(np.concatenate, zip(*rows)) for rows in (truth, found))
        ap = voc_average_precisions(
            Truth(*truth), Detections(*found), self.cfg.MODEL.FCOS.NUM_CLASSES, np.array([_AP_IOU]), False
        )
        return float(np.nanmean(ap)) if np.isfinite(ap).any() else 0.0

    def _val_batches(self) -> Iterator[list[int]]:
        val, size = self.split.val, self.node.BATCH
        return (val[start : start + size] for start in range(0, len(val), size))

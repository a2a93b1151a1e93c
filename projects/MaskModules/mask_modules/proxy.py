"""The proxy task: train a module of bases on features of a frozen BlendMask, whose attentions stay as they are.

The reward is the mean IoU of the masks of ground-truth boxes, which stands for mask AP: neither detection nor ranking
changes with the module. :func:`make_evaluate` is what a search calls, by the name ``mask_modules.proxy:make_evaluate``.

N images, G objects of a batch, E numbers of an attention, R the side of masks.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from adet_ext.cli.project_search import config_of
from adet_ext.d2.config import CfgNode
from adet_ext.d2.structures import Instances
from adet_ext.data.proxy_images import ProxyImages, feature_settings, image_files, split
from adet_ext.engine.frozen import build_frozen
from adet_ext.errors import UserError
from adet_ext.modeling.mask.blendmask import BlendMask
from adet_ext.modeling.mask.mask_targets import crop_objects
from adet_ext.nas.evaluation import Outcome, Task
from adet_ext.nas.feature_cache import FeatureCache
from adet_ext.nas.proxies import keep_features, print_progress, timed, train_and_score

from .basis import SearchedBasis
from .cost import ModuleCost
from .genotype import MaskGenotype, load_genotype
from .space import build_space

__all__ = ["MaskProxy", "make_evaluate"]

_KEY = "MODEL.MASK_MODULES.SEARCH"


def make_evaluate(settings: dict) -> Callable[[Task], Outcome]:
    """Return the evaluation of one module.

    Args:
        settings: see :func:`~adet_ext.cli.project_search.config_of`.
    """
    return MaskProxy(config_of(settings), print_progress).evaluate


class Batch(NamedTuple):
    """What a module learns from.

    Attributes:
        features: by name, (N, C, H_l, W_l).
        attentions: (G, E), of one location of every object.
        boxes, image: (G, 4) and (G,), of the ground truth.
        masks: (G, R, R) of 0 and 1, within the boxes.
    """

    features: dict[str, torch.Tensor]
    attentions: torch.Tensor
    boxes: torch.Tensor
    image: torch.Tensor
    masks: torch.Tensor


class MaskProxy:
    """Trains modules on features and attentions of the BlendMask in MODEL.WEIGHTS.

    Args:
        cfg: that model; MODEL.MASK_MODULES.SEARCH is the proxy task.
        progress: is called with the number of images whose features are computed, and how many there are.

    Raises:
        UserError: images, weights or settings are missing or do not fit.
    """

    def __init__(self, cfg: CfgNode, progress: Callable[[int, int], None] = lambda done, total: None):
        self.cfg, self.node = cfg, cfg.MODEL.MASK_MODULES.SEARCH
        for key in ("SIZE", "BATCH", "ITERATIONS"):
            if self.node[key] < 1:
                raise UserError(f"{_KEY}.{key} must be 1 or more; got {self.node[key]}")
        self.seed = max(cfg.SEED, 0)
        self.space = build_space(cfg)
        self.costs = ModuleCost.from_config(cfg)
        self.reference_cost = self.costs.of(load_genotype(self.node.REFERENCE))
        self.model = self._load_model()
        self.images = ProxyImages(cfg, _KEY, self.seed, masks=True)
        self.split = split(len(self.images), self.node.VAL_FRACTION, self.seed)
        self.objects: list[Instances] = [self.images[i]["instances"] for i in range(len(self.images))]
        side, like = cfg.MODEL.BLENDMASK.BOTTOM_RESOLUTION, torch.empty(0)
        self.masks = [crop_objects([x], side, like).bool() for x in self.objects]
        self.most = max(1, *map(len, self.objects))
        self.cache = self._build_cache(progress) if self.node.CACHE else None

    def _load_model(self) -> BlendMask:
        cfg = self.cfg.clone()
        cfg.defrost()
        cfg.MODEL.BASIS_MODULE.LOSS_ON = False  # published files are without the auxiliary head
        model = build_frozen(cfg, self.seed)
        if not isinstance(model, BlendMask) or model.top_layer is None:
            raise UserError(
                "MODEL.META_ARCHITECTURE must be BlendMask, with MODEL.BLENDMASK.MERGE blender, for a search; got "
                f"{self.cfg.MODEL.META_ARCHITECTURE} and {self.cfg.MODEL.BLENDMASK.MERGE}"
            )
        return model

    # Features -------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def _compute(self, numbers: Sequence[int]) -> dict[str, torch.Tensor]:
        """Return features, and ``attentions`` (N, 1, D, E + 1), D the most objects of an image.

        An object's attention is that of its most central location; the last number is 1 where it has one.
        """
        model, objects = self.model, [self.objects[i].to(self.model.device) for i in numbers]
        images = model.preprocess_image([{"image": self.images[i]["image"]} for i in numbers]).tensor
        features = model.backbone(images)
        output, locations = model.proposal_generator.head_output(features)
        _, positives = model.proposal_generator.losses(output, locations, objects)
        found = images.new_zeros(sum(map(len, objects)), model.blender.embedding_length + 1)
        order = positives.weight.argsort()  # of the writes to an object, that of the most central location is the last
        attentions = model.attentions(output, positives.image, positives.location)
        for place in order.tolist():
            found[positives.objects[place], :-1], found[positives.objects[place], -1] = attentions[place], 1
        rows = found.split([len(x) for x in objects])
        table = torch.stack([F.pad(x, (0, 0, 0, self.most - len(x))) for x in rows])[:, None]  # (N, 1, D, E + 1)
        return {name: features[name] for name in self.cfg.MODEL.BASIS_MODULE.IN_FEATURES} | {"attentions": table}

    def _build_cache(self, progress: Callable[[int, int], None]) -> FeatureCache:
        cfg, node = self.cfg, self.node
        settings = feature_settings(self.images, cfg, cfg.MODEL.BASIS_MODULE.IN_FEATURES)
        files = image_files(self.images)
        return keep_features(node.CACHE, node.CACHE_LIMIT_GB, self._compute, files, self.model, settings, progress)

    def batch(self, numbers: Sequence[int]) -> Batch:
        """Return what is known of images, without the objects that FCOS has no location for."""
        features = self._compute(numbers) if self.cache is None else self.cache.batch(numbers)
        device = self.model.device
        table = features.pop("attentions")[:, 0].to(device)
        features = {n: x.to(device).contiguous(memory_format=torch.channels_last) for n, x in features.items()}
        counts = [len(self.objects[i]) for i in numbers]
        rows = torch.cat([x[:count] for x, count in zip(table, counts)])  # (all objects, E + 1)
        keep = rows[:, -1] > 0
        boxes = torch.cat([self.objects[i].gt_boxes.tensor for i in numbers]).to(device)
        image = torch.arange(len(numbers), device=device).repeat_interleave(torch.tensor(counts, device=device))
        masks = torch.cat([self.masks[i] for i in numbers]).to(device).float()
        return Batch(features, rows[keep, :-1].float(), boxes[keep], image[keep], masks[keep])

    # One module -----------------------------------------------------------------------------------------------------

    def evaluate(self, task: Task) -> Outcome:
        """Train the module and return its reward; stop half-way if that is not above the threshold.

        Raises:
            FloatingPointError: the loss is not finite.
        """
        torch.manual_seed(task.seed)
        seconds: Counter[str] = Counter()
        genotype = self.space.genotype(task.tokens)
        module = self.build(genotype)
        return train_and_score(
            task,
            self._train(module, seconds),
            max(1, self.node.ITERATIONS // 2),
            lambda _: self._reward(module, genotype, seconds),
            seconds,
        )

    def build(self, genotype: MaskGenotype) -> SearchedBasis:
        """Return a module with random weights."""
        common = SearchedBasis.common_arguments(self.cfg, self.model.backbone.output_shape())
        common["num_classes"] = None  # the auxiliary loss does not reach the module
        module = SearchedBasis(genotype=genotype, num_bases=self.cfg.MODEL.BASIS_MODULE.NUM_BASES, **common)
        return module.to(self.model.device, memory_format=torch.channels_last)

    def _logits(self, module: nn.Module, batch: Batch) -> torch.Tensor:
        """Return mask logits (G, R, R)."""
        return self.model.blender(module(batch.features), batch.attentions, batch.boxes, batch.image).float()

    def _train(self, module: SearchedBasis, seconds: Counter) -> Iterator[float]:
        """Train for ITERATIONS steps of Adam, on the same batches for all modules; yield the loss after each."""
        optimizer = torch.optim.Adam(module.parameters(), lr=self.node.LR)
        generator, train = np.random.default_rng(self.seed), self.split.train
        module.train()
        for step in range(self.node.ITERATIONS):
            with timed(seconds, "features"):
                size = min(self.node.BATCH, len(train))
                batch = self.batch(generator.choice(train, size, replace=False).tolist())
            with timed(seconds, "training"):
                logits = self._logits(module, batch)
                if len(logits):
                    loss = F.binary_cross_entropy_with_logits(logits, batch.masks)
                    if not torch.isfinite(loss):
                        raise FloatingPointError(f"the loss is {float(loss.detach())} in step {step}")
                    optimizer.zero_grad(set_to_none=True)
                    loss.backward()
                    optimizer.step()
            yield float(loss.detach()) if len(logits) else 0.0

    def _reward(
        self, module: SearchedBasis, genotype: MaskGenotype, seconds: Counter
    ) -> tuple[float, dict[str, float]]:
        with timed(seconds, "validation"):
            iou = self.mean_iou(module)
        cost = self.costs.of(genotype)
        reward = iou * (cost / self.reference_cost) ** -self.node.COST_EXPONENT
        parameters = sum(parameter.numel() for parameter in module.parameters())
        return reward, {"IoU": iou, "multiply_adds": cost, "parameters": parameters}

    @torch.no_grad()
    def mean_iou(self, module: SearchedBasis) -> float:
        """Return the mean IoU of masks and ground truth within the boxes of meta-val, in percent; 0 without objects."""
        found: list[torch.Tensor] = []
        module.eval()
        for start in range(0, len(self.split.val), self.node.BATCH):
            batch = self.batch(self.split.val[start : start + self.node.BATCH])
            predicted, truth = self._logits(module, batch) > 0, batch.masks > 0
            both, either = ((x.sum(dim=(1, 2))) for x in (predicted & truth, predicted | truth))
            found.append(both / either.clamp(min=1))
        module.train()
        ious = torch.cat(found)
        return 100 * float(ious.mean()) if len(ious) else 0.0

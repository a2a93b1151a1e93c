"""The relaxed network: all paths and all operations at once, weighted by alpha and beta (seed document 3, section 2).

N images, L layers, B blocks, F the width, f = F 2^level the channels of a block, s the stride of a level.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from adet_ext.d2.config import configurable
from adet_ext.d2.modeling import META_ARCH_REGISTRY
from adet_ext.d2.structures import ImageList
from adet_ext.layers.resized_cross_entropy import resized_cross_entropy

from .backbone import Stem
from .cell import project
from .genotype import LEVELS
from .operations import NONE, OPERATIONS, build_operation, half, resize
from .pyramids import ImagePooling, conv_norm_relu
from .space import STEPS, edges

__all__ = ["AutoDeepLabSearch", "RelaxedCell"]


def _norm(channels: int) -> nn.BatchNorm2d:
    # Without a learned scale: an operation's share is alpha's alone.
    return nn.BatchNorm2d(channels, affine=False)


class RelaxedCell(nn.Module):
    """One cell at one level and layer: every edge is the sum of all operations, weighted by alpha.

    The operations are the same for each of up to three cells before it; each of these has a projection of its own.
    """

    def __init__(self, blocks: int, channels: int, previous: Mapping[int, int], before: int | None):
        """
        Args:
            channels: f.
            previous: the channels of the cell before, by the step from its level to this one.
            before: the channels of the cell before that, at this level; None where there is none.
        """
        super().__init__()
        self.blocks = blocks
        self.project = nn.ModuleDict()
        for step, inputs in previous.items():
            conv = project(inputs, channels, _norm)
            if step > 0:
                halving = nn.Conv2d(inputs, channels, 3, stride=2, padding=1, bias=False)
                conv = nn.Sequential(nn.ReLU(), halving, _norm(channels))
            self.project[str(step)] = conv
        self.before = None if before is None else project(before, channels, _norm)
        self.operations = nn.ModuleList()
        for _, state in edges(blocks):
            used = state != 1 or before is not None
            names = [name for name in OPERATIONS if name != NONE] if used else []
            self.operations.append(nn.ModuleList([build_operation(name, channels, 1, _norm) for name in names]))

    def forward(
        self, previous: torch.Tensor, before: torch.Tensor | None, alpha: torch.Tensor, step: int, size: tuple[int, int]
    ) -> torch.Tensor:
        """Map the outputs of the two cells before to (N, B f, H, W).

        Args:
            alpha: (E, 8) probabilities.
            step: from the level of ``previous`` to this one.
            size: (H, W) of this level.
        """
        if step < 0:
            previous = resize(previous, size)
        states = [self.project[str(step)](previous), None if before is None else self.before(before)]
        place = 0
        for block in range(self.blocks):
            total: torch.Tensor | int = 0
            for state in range(block + 2):
                for weight, operation in zip(alpha[place], self.operations[place]):
                    total = total + weight * operation(states[state])
                place += 1
            states.append(total)
        return torch.cat(states[2:], dim=1)


@META_ARCH_REGISTRY.register()
class AutoDeepLabSearch(nn.Module):
    """The relaxed network with a small pyramid at every level of the last layer, whose logits are added up.

    ``alpha`` (E, 8) and ``beta`` (L, LEVELS, 3) are logits; the softmax of ``beta`` is over the steps that stay within
    the levels.
    """

    @configurable
    def __init__(
        self,
        *,
        layers: int,
        blocks: int,
        width: int,
        stem: Sequence[int],
        num_classes: int,
        ignore_value: int,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        save_memory: bool = False,
    ):
        """
        Args:
            width: F.
            stem: channels of its two stages.
            save_memory: compute the insides of the cells again in the backward pass.
        """
        super().__init__()
        self.layers, self.blocks, self.save_memory, self.ignore_value = layers, blocks, save_memory, ignore_value
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), False)
        self.stem = Stem(3, nn.BatchNorm2d, tuple(stem))
        self.cells = nn.ModuleList()
        channels: list[dict[int, int]] = [{}, {0: stem[1]}]  # by level, of the layer before the last and of the last
        for _ in range(layers):
            layer, found = nn.ModuleDict(), {}
            for level in range(LEVELS):
                previous = {s: channels[-1][level - s] for s in STEPS if level - s in channels[-1]}
                if previous:
                    found[level] = blocks * width * 2**level
                    layer[str(level)] = RelaxedCell(blocks, width * 2**level, previous, channels[-2].get(level))
            self.cells.append(layer)
            channels.append(found)
        self.pyramids = nn.ModuleDict()
        for level, inputs in channels[-1].items():
            rate = 96 // (4 * 2**level)
            branches = [conv_norm_relu(inputs, inputs, nn.BatchNorm2d)]
            branches += [conv_norm_relu(inputs, inputs, nn.BatchNorm2d, 3, rate)]
            branches += [ImagePooling(inputs, inputs, nn.BatchNorm2d)]
            classify = nn.Conv2d(3 * inputs, num_classes, 1)
            self.pyramids[str(level)] = nn.ModuleDict({"branches": nn.ModuleList(branches), "classify": classify})
        self.alpha = nn.Parameter(torch.randn(len(edges(blocks)), len(OPERATIONS)) * 1e-3)
        self.beta = nn.Parameter(torch.randn(layers, LEVELS, len(STEPS)) * 1e-3)

    @classmethod
    def from_config(cls, cfg) -> dict[str, Any]:
        node = cfg.MODEL.AUTO_DEEPLAB.SEARCH
        for key in ("LAYERS", "BLOCKS", "WIDTH"):
            if node[key] < 1:
                raise ValueError(f"MODEL.AUTO_DEEPLAB.SEARCH.{key} must be 1 or more; got {node[key]}")
        return {
            "layers": node.LAYERS,
            "blocks": node.BLOCKS,
            "width": node.WIDTH,
            "stem": node.STEM,
            "save_memory": node.CHECKPOINT,
            "num_classes": cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES,
            "ignore_value": cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
        }

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    def architecture(self) -> list[nn.Parameter]:
        """Return alpha and beta."""
        return [self.alpha, self.beta]

    def probabilities(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the softmax of alpha and of beta; a step that leaves the levels has the probability 0."""
        level = torch.arange(LEVELS, device=self.beta.device)[:, None] + torch.tensor(STEPS, device=self.beta.device)
        outside = (level < 0) | (level >= LEVELS)
        return self.alpha.softmax(dim=1), self.beta.masked_fill(outside, float("-inf")).softmax(dim=2)

    def logits(self, images: torch.Tensor, alpha: torch.Tensor, beta: torch.Tensor) -> torch.Tensor:
        """Return logits (N, C, H / 4, W / 4) of preprocessed images (N, 3, H, W), for given probabilities."""
        outputs: list[dict[int, torch.Tensor]] = [{}, {0: self.stem(images)[0]}]
        sizes = [tuple(outputs[-1][0].shape[-2:])]
        for _ in range(LEVELS - 1):
            sizes.append(half(sizes[-1]))
        for layer, shares in zip(self.cells, beta):
            found = {}
            for name, cell in layer.items():
                level = int(name)
                parts = [
                    shares[level - step, STEPS.index(step)]
                    * self._run(cell, outputs[-1][level - step], outputs[-2].get(level), alpha, step, sizes[level])
                    for step in STEPS
                    if level - step in outputs[-1]
                ]
                found[level] = sum(parts[1:], start=parts[0])
            outputs.append(found)
        total: torch.Tensor | int = 0
        for level, x in outputs[-1].items():
            pyramid = self.pyramids[str(level)]
            joined = torch.cat([branch(x.relu()) for branch in pyramid["branches"]], dim=1)
            total = total + resize(pyramid["classify"](joined), sizes[0])
        return total

    def _run(self, cell: RelaxedCell, *args: Any) -> torch.Tensor:
        if self.save_memory and torch.is_grad_enabled():
            return checkpoint(cell, *args, use_reentrant=False)
        return cell(*args)

    def forward(self, batched_inputs: list[dict]) -> dict[str, torch.Tensor] | list[dict]:
        """Run as :class:`SemanticSegmentor` does: losses in training, else ``sem_seg`` of every image."""
        images = [(x["image"].to(self.device) - self.pixel_mean) / self.pixel_std for x in batched_inputs]
        stride = 4 * 2 ** (LEVELS - 1)
        images = ImageList.from_tensors(images, stride)
        logits = self.logits(images.tensor, *self.probabilities())
        if self.training:
            labels = [x["sem_seg"].to(self.device) for x in batched_inputs]
            labels = ImageList.from_tensors(labels, stride, self.ignore_value).tensor
            return {"loss_sem_seg": resized_cross_entropy(logits, labels, ignored=self.ignore_value)}
        logits = F.interpolate(logits.float(), size=images.tensor.shape[-2:], mode="bilinear", align_corners=False)
        results = []
        for scores, x, (height, width) in zip(logits, batched_inputs, images.image_sizes):
            size = (x.get("height", height), x.get("width", width))
            scores = scores[None, :, :height, :width]
            results.append({"sem_seg": F.interpolate(scores, size=size, mode="bilinear", align_corners=False)[0]})
        return results

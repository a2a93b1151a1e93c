"""The search space, for the search core: backbone, heads and attention between the branches, searched together."""

import math
from collections.abc import Sequence

import numpy as np

from adet_ext.d2.config import CfgNode
from adet_ext.nas.space import Decision, Space

from .architecture import BLOCKS, PARTS, Architecture
from .backbone import check_stages, input_channels
from .blocks import KERNELS

__all__ = ["AutoPanopticSpace", "BackboneCost", "build_space"]

_FIXED = {"mask_head": 4, "semantic_subnet": 3, "foreground_to_background": 4, "background_to_foreground": 5}
_COST_SIDE = 224  # pixels, as classifiers are counted


class BackboneCost:
    """Multiply-adds and parameters of every choice of every block, at 224 x 224 pixels.

    A path's cost is the sum of its blocks' and the stem's.
    """

    def __init__(self, channels: Sequence[int], repeats: Sequence[int]):
        side = _COST_SIDE // 2
        self.stem = np.array([side * side * 27 * channels[0], 30 * channels[0]])
        self.blocks: list[dict[str, np.ndarray]] = []
        for inputs, outputs, stride in input_channels(channels, repeats):
            self.blocks.append({kind: _block_cost(inputs, outputs, stride, kind, side) for kind in BLOCKS})
            side //= stride

    def of(self, backbone: Sequence[str]) -> tuple[int, int]:
        """Return the multiply-adds and the parameters of a backbone."""
        costs = sum((block[kind] for block, kind in zip(self.blocks, backbone, strict=True)), start=self.stem)
        return int(costs[0]), int(costs[1])


def _block_cost(inputs: int, outputs: int, stride: int, kind: str, side: int) -> np.ndarray:
    """Return [multiply-adds, parameters] of a :class:`~.blocks.ShuffleBlock` on maps of ``side`` x ``side``."""
    after, middle, kernel = side // stride, outputs // 2, KERNELS[kind]
    branch = inputs // 2 if stride == 1 else inputs
    new = outputs - branch

    def convolution(weights: int, channels: int, at: int) -> np.ndarray:
        return np.array([weights * at * at, weights + 2 * channels])  # with its norm

    def separable(a: int, b: int, kernel: int = 3) -> np.ndarray:
        return convolution(a * kernel**2, a, after) + convolution(a * b, b, after)

    if kind == "xception":
        cost = separable(branch, middle) + separable(middle, middle) + separable(middle, new)
    else:
        cost = convolution(branch * middle, middle, side) + separable(middle, new, kernel)
    return cost + separable(branch, branch, kernel) if stride == 2 else cost


class AutoPanopticSpace(Space):
    """One decision for each searched layer; with a limit, backbones that cost more are rejected."""

    def __init__(self, channels: Sequence[int], repeats: Sequence[int], max_multiply_adds: float = 0.0):
        """
        Args:
            channels: of the stem and the stages while searching.
            repeats: blocks of each stage.
            max_multiply_adds: of the backbone at 224 x 224 pixels; 0: no limit.
        """
        check_stages(channels, repeats)
        self.sizes = {"backbone": sum(repeats), **_FIXED}
        self.max_multiply_adds = max_multiply_adds
        self.cost = BackboneCost(channels, repeats)
        decisions = [
            Decision(f"{part}{layer + 1}", _kind(part), choices)
            for part, choices in PARTS.items()
            for layer in range(self.sizes[part])
        ]
        super().__init__("auto_panoptic", decisions)

    def architecture(self, tokens: Sequence[int]) -> Architecture:
        """Return the architecture of the tokens."""
        return Architecture.from_choices(self.decode(tokens), self.sizes)

    def tokens_of(self, architecture: Architecture) -> tuple[int, ...]:
        """Return the tokens of an architecture."""
        return self.encode(architecture.choices())

    def counts(self) -> dict[str, int]:
        """Return the number of choices of each part together."""
        return {part: len(choices) ** self.sizes[part] for part, choices in PARTS.items()}

    @property
    def period(self) -> int:
        """In so many paths, every choice of every layer can be drawn equally often: 12."""
        return math.lcm(*map(len, PARTS.values()))

    def why_rejected(self, tokens: Sequence[int]) -> str:
        """Return that the backbone costs more than the limit, or ""."""
        limit = self.max_multiply_adds
        cost, _ = self.cost.of(self.architecture(tokens).backbone)
        return f"{cost / 1e6:.0f} M multiply-adds of {limit / 1e6:.0f} M" if limit and cost > limit else ""


def _kind(part: str) -> str:
    return {"mask_head": "head", "semantic_subnet": "head"}.get(part, "attention" if "_to_" in part else part)


def build_space(cfg: CfgNode) -> AutoPanopticSpace:
    """Return the space of a config."""
    node = cfg.MODEL.AUTO_PANOPTIC
    return AutoPanopticSpace(node.CHANNELS, node.REPEATS, node.SEARCH.MAX_MULTIPLY_ADDS)

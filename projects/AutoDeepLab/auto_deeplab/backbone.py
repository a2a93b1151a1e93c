"""The discrete network as a backbone: a stem of two halvings, then the cells along the path."""

from typing import Any

import torch
from torch import nn

from adet_ext.d2.config import configurable
from adet_ext.d2.layers import ShapeSpec, get_norm
from adet_ext.d2.modeling import BACKBONE_REGISTRY, Backbone

from .cell import Cell, DropPath
from .genotype import Genotype, load_genotype
from .operations import MakeNorm, half

__all__ = ["AutoDeepLab", "Stem"]

STEM_CHANNELS = (64, 128)


class Stem(nn.Module):
    """3x3 convolutions of 64, 64 and 128 channels, the first and the last with a stride of 2."""

    def __init__(self, in_channels: int, make_norm: MakeNorm, channels: tuple[int, int] = STEM_CHANNELS):
        super().__init__()
        first, last = channels

        def convolve(inputs: int, outputs: int, stride: int) -> list[nn.Module]:
            return [nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), make_norm(outputs)]

        self.before = nn.Sequential(*convolve(in_channels, first, 2), nn.ReLU(), *convolve(first, first, 1))
        self.previous = nn.Sequential(nn.ReLU(), *convolve(first, last, 2))

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Map images (N, 3, H, W) to (N, 128, H / 4, W / 4) and (N, 64, H / 2, W / 2), without a last ReLU."""
        before = self.before(images)
        return self.previous(before), before


@BACKBONE_REGISTRY.register()
class AutoDeepLab(Backbone):
    """Auto-DeepLab: features ``stem`` and ``cell1`` to ``cellL``, the last with a ReLU.

    A cell at stride s has B F s / 4 channels.
    """

    @configurable
    def __init__(
        self, *, genotype: Genotype, width: int, norm: str, out_features: list[str], drop_path: float, max_iter: int
    ):
        """
        Args:
            width: F.
            drop_path: the share of branches that the last cell drops at the end of a training; the share rises with
                depth and with the training's progress.
            max_iter: iterations of the whole training.
        """
        super().__init__()

        def make_norm(channels: int) -> nn.Module:
            return get_norm(norm, channels)

        self.path = list(genotype.path)
        self.drop_path, self.max_iter = drop_path, max_iter
        if drop_path:
            self.register_buffer("iteration", torch.zeros((), dtype=torch.int64))
        self.stem = Stem(3, make_norm)
        self.cells = nn.ModuleList()
        before, previous = STEM_CHANNELS
        for level, last in zip(self.path, [0, *self.path]):
            channels = width * 2**level
            cell = Cell(genotype.blocks, channels, previous, before, level - last, make_norm)
            self.cells.append(cell)
            before, previous = previous, len(genotype.blocks) * channels
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        names = [f"cell{i + 1}" for i in range(len(self.path))]
        missing = [name for name in out_features if name not in ("stem", *names)]
        if missing or not out_features:
            raise ValueError(
                f"MODEL.AUTO_DEEPLAB.OUT_FEATURES must name cells, cell1 to {names[-1]}, or stem; got "
                f"{missing or out_features}"
            )
        self._out_features = list(out_features)
        blocks = len(genotype.blocks)
        self._out_feature_channels = {n: blocks * width * 2**level for n, level in zip(names, self.path)}
        self._out_feature_channels["stem"] = STEM_CHANNELS[1]
        self._out_feature_strides = {n: 4 * 2**level for n, level in zip(names, self.path)} | {"stem": 4}

    @classmethod
    def from_config(cls, cfg, input_shape: ShapeSpec | None = None) -> dict[str, Any]:
        node = cfg.MODEL.AUTO_DEEPLAB
        if not 0 <= node.DROP_PATH < 1:
            raise ValueError(f"MODEL.AUTO_DEEPLAB.DROP_PATH must be 0 or more and below 1; got {node.DROP_PATH}")
        genotype = load_genotype(node.GENOTYPE)
        return {
            "genotype": genotype,
            "width": node.WIDTH,
            "norm": node.NORM,
            "out_features": node.OUT_FEATURES or ["cell3", f"cell{len(genotype.path)}"],
            "drop_path": node.DROP_PATH,
            "max_iter": cfg.SOLVER.MAX_ITER,
        }

    @property
    def size_divisibility(self) -> int:
        return 4 * 2 ** max(self.path)

    @property
    def padding_constraints(self) -> dict[str, int]:
        """No further demand on the size; Detectron2's models ask."""
        return {}

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Map images (N, 3, H, W) to the features that OUT_FEATURES names."""
        if self.training and self.drop_path:
            self._schedule_drop_path()
        previous, before = self.stem(images)
        sizes = [tuple(previous.shape[-2:])]
        for _ in range(max(self.path)):
            sizes.append(half(sizes[-1]))
        features = {"stem": previous}
        for i, (cell, level) in enumerate(zip(self.cells, self.path), 1):
            before, previous = previous, cell(previous, before, sizes[level])
            features[f"cell{i}"] = previous
        features[f"cell{len(self.cells)}"] = previous.relu()
        return {name: features[name] for name in self._out_features}

    def _schedule_drop_path(self) -> None:
        self.iteration += 1
        progress = min(1.0, self.iteration.item() / max(self.max_iter, 1))
        for i, cell in enumerate(self.cells, 1):
            for module in cell.drop.modules():
                if isinstance(module, DropPath):
                    module.rate = self.drop_path * progress * i / len(self.cells)

"""What a module costs: multiply-adds of its convolutions on one image, those that predict factors among them."""

from collections.abc import Sequence

import torch

from adet_ext.d2.config import CfgNode
from adet_ext.d2.modeling import build_backbone
from adet_ext.modeling.checks import check_features

from .genotype import MaskGenotype
from .operations import products

__all__ = ["ModuleCost"]


class ModuleCost:
    """Multiply-adds on a square image; ``of`` gives those of a genotype."""

    def __init__(self, channels: Sequence[int], side: int, num_bases: int):
        """
        Args:
            channels: of the levels, from the finest.
            side: of the finest level's map.
            num_bases: K; 0: no predictor.
        """
        self.channels, self.side, self.num_bases = list(channels), side, num_bases

    @classmethod
    def from_config(cls, cfg: CfgNode) -> "ModuleCost":
        """Return the costs on an image of MODEL.MASK_MODULES.SEARCH.SIZE, for the backbone of the config."""
        basis = cfg.MODEL.BASIS_MODULE
        with torch.device("meta"):
            shapes = build_backbone(cfg).output_shape()
        check_features("MODEL.BASIS_MODULE.IN_FEATURES", basis.IN_FEATURES, shapes)
        levels = [shapes[name] for name in basis.IN_FEATURES]
        side = -(-cfg.MODEL.MASK_MODULES.SEARCH.SIZE // levels[0].stride)
        return cls([level.channels for level in levels], side, basis.NUM_BASES)

    def of(self, genotype: MaskGenotype) -> int:
        """Return the multiply-adds of a module."""
        width, side = genotype.width, self.side
        total = side**2 * sum(products(name, width, width) for name in genotype.tower)
        total += (2 * side) ** 2 * (products(genotype.last, width, width) + width * self.num_bases)
        for level, inputs in zip(genotype.levels, self.channels, strict=True):
            factors = 0 if level.factors == "none" else len(level.factors)
            place = products(level.input, inputs, width) + products(level.merge, width, width)
            total += (place + products("conv_3x3", inputs, factors * width)) * side**2
            side = -(-side // 2)
        return total

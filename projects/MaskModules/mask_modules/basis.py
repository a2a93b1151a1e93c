"""The bottom module that a genotype describes; any model with MODEL.BASIS_MODULE can name it.

N images, K bases, C_in channels of the levels, C the module's width, s the stride of the finest level.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import nn
from torch.nn import functional as F

from adet_ext.d2.config import configurable
from adet_ext.d2.layers import ShapeSpec
from adet_ext.layers.aligned_upsample import aligned_upsample
from adet_ext.modeling.mask.bases import BASIS_MODULE_REGISTRY, BasisModule
from adet_ext.modeling.mask.top_layer import Context

from .genotype import SKIP, MaskGenotype, load_genotype
from .operations import Layer

__all__ = ["SearchedBasis"]


@BASIS_MODULE_REGISTRY.register()
class SearchedBasis(BasisModule):
    """A module found by search. Where its convolutions take dynamic factors, it predicts them from the level itself by
    a 3x3 convolution, as DR1Mask's top layer does with MODEL.DR1MASK.CONTEXT "fpn"."""

    @configurable
    def __init__(self, *, genotype: MaskGenotype, num_bases: int, contexts: bool = True, **common):
        """
        Args:
            num_bases: K; 0: no predictor, the C channels are the bases, as DR1Mask's are.
            contexts: make the layers that predict the factors; else they are given in each call.
            common: see :class:`BasisModule`; ``channels`` is the width of the auxiliary semantic head.
        """
        super().__init__(**common)
        shapes, norm, width = [common["input_shape"][name] for name in self.in_features], common["norm"], genotype.width
        _check(genotype, self.in_features, shapes)
        self.genotype = genotype
        self.reduce = nn.ModuleList(
            [Layer(level.input, shape.channels, width, norm) for level, shape in zip(genotype.levels, shapes)]
        )
        self.merge = nn.ModuleList([_layer(level.merge, width, norm) for level in genotype.levels])
        self.context = nn.ModuleDict()
        for name, level, shape in zip(self.in_features, genotype.levels, shapes):
            if level.factors != "none" and contexts:
                self.context[name] = _context_layer(shape.channels, len(level.factors) * width)
        self.tower = nn.Sequential(*[Layer(name, width, width, norm) for name in genotype.tower])
        self.last = _layer(genotype.last, width, norm)
        self.predictor = nn.Conv2d(width, num_bases, 1) if num_bases else nn.Identity()

    @classmethod
    def from_config(cls, cfg, input_shape: dict[str, ShapeSpec]) -> dict:
        genotype = load_genotype(cfg.MODEL.MASK_MODULES.GENOTYPE)
        bases = cfg.MODEL.BASIS_MODULE.NUM_BASES
        return {"genotype": genotype, "num_bases": bases, **cls.common_arguments(cfg, input_shape)}

    def forward(
        self, features: Mapping[str, torch.Tensor], contexts: Mapping[str, Context] | None = None
    ) -> torch.Tensor:
        """Return the bases (N, K, 2 H / s, 2 W / s).

        Args:
            features: the levels by name, (N, C_in, H_l, W_l).
            contexts: A and B of the levels by name, in place of those that the module predicts.
        """
        sizes = [tuple(features[name].shape[-2:]) for name in self.in_features]
        sums = [reduce(features[name]) for name, reduce in zip(self.in_features, self.reduce)]
        for i in reversed(range(len(sums))):
            x, merge = sums[i], self.merge[i]
            if not isinstance(merge, nn.Identity):
                x = merge(x, *self._factors(i, features, contexts))
            sums[i] = x
            if i:
                target = self.genotype.joins[i - 1]
                sums[target] = sums[target] + self._enlarge(x, sizes[target:i][::-1])
        x = self.tower(sums[0])
        x = self._enlarge(x, [tuple(2 * length for length in sizes[0])])
        return self.predictor(self.last(x))

    def _factors(self, level: int, features, contexts) -> Context:
        name, wanted = self.in_features[level], self.genotype.levels[level].factors
        if wanted == "none":
            return None, None
        if contexts is not None:
            a, b = contexts.get(name, (None, None))
            return (a if "a" in wanted else None), (b if "b" in wanted else None)
        found = self.context[name](features[name])
        if wanted == "ab":
            return found.chunk(2, dim=1)
        return (found, None) if wanted == "a" else (None, found)

    def _enlarge(self, x: torch.Tensor, sizes: Sequence[tuple[int, int]]) -> torch.Tensor:
        """Enlarge a map to the last of the sizes, each of which has twice the resolution of the one before."""
        if self.genotype.upsampling == "resize":
            return F.interpolate(x, size=sizes[-1], mode="bilinear", align_corners=False)
        for size in sizes:
            x = aligned_upsample(x, size)
        return x


def _layer(name: str, width: int, norm: str) -> nn.Module:
    return nn.Identity() if name == SKIP else Layer(name, width, width, norm)


def _context_layer(inputs: int, outputs: int) -> nn.Conv2d:
    layer = nn.Conv2d(inputs, outputs, 3, padding=1)
    nn.init.normal_(layer.weight, std=0.01)
    nn.init.ones_(layer.bias)  # around zero, outputs and gradients would vanish
    return layer


def _check(genotype: MaskGenotype, names: Sequence[str], shapes: Sequence[ShapeSpec]) -> None:
    strides = [shape.stride for shape in shapes]
    if len(strides) != len(genotype.levels) or any(2 * fine != coarse for fine, coarse in zip(strides, strides[1:])):
        raise ValueError(
            f"MODEL.BASIS_MODULE.IN_FEATURES must name {len(genotype.levels)} features for the module of "
            f"MODEL.MASK_MODULES.GENOTYPE, each with twice the stride of the one before; got {list(names)} of strides "
            f"{strides}"
        )

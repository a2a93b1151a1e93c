"""The head that a genotype describes, in FCOS (thesis 7.3.2).

N images, C channels, H_l x W_l the map of level l.
"""

import torch
from torch import nn

from adet_ext.d2.layers import get_norm
from adet_ext.d2.modeling import PROPOSAL_GENERATOR_REGISTRY
from adet_ext.errors import UserError
from adet_ext.modeling.fcos import FCOS
from adet_ext.modeling.fcos.head import FCOSHead

from .genotype import HeadGenotype, load_genotype
from .operations import build_operation

__all__ = ["GenotypeHead", "GenotypeTower", "NASFCOS"]

_NORM_GROUPS = 32


class GenotypeTower(nn.Module):
    """The layers of a genotype: those before ``share_from`` once for each level, the others once for all."""

    def __init__(self, genotype: HeadGenotype, channels: int, num_levels: int):
        super().__init__()

        def layers(names: tuple[str, ...]) -> nn.Sequential:
            return nn.Sequential(*(build_operation(name, channels, lambda c: get_norm("GN", c)) for name in names))

        before, after = genotype.operations[: genotype.share_from], genotype.operations[genotype.share_from :]
        self.own = nn.ModuleList(layers(before) for _ in range(num_levels if before else 0))
        self.shared = layers(after)

    def forward(self, x: torch.Tensor, level: int) -> torch.Tensor:
        """(N, C, H_l, W_l) to the same shape."""
        return self.shared(self.own[level](x) if self.own else x)


class GenotypeHead(FCOSHead):
    """FCOS' head with the towers of a genotype, one for classes and one for boxes; everything else is FCOS'."""

    def __init__(self, *, genotype: HeadGenotype, in_channels: int, num_levels: int, **predictions):
        """
        Args:
            genotype: of both towers, which have weights of their own.
            in_channels: C, a multiple of 32 for the group norms.
            predictions: the other arguments of :class:`FCOSHead` that are not about its towers.

        Raises:
            UserError: C is no multiple of 32.
        """
        if in_channels % _NORM_GROUPS:
            raise UserError(
                f"MODEL.FPN.OUT_CHANNELS must be a multiple of {_NORM_GROUPS} for a head with group norms; "
                f"got {in_channels}"
            )
        super().__init__(
            in_channels=in_channels, num_levels=num_levels, num_cls_convs=0, num_box_convs=0, norm="none", **predictions
        )
        self.cls_tower = GenotypeTower(genotype, in_channels, num_levels)
        self.bbox_tower = GenotypeTower(genotype, in_channels, num_levels)


@PROPOSAL_GENERATOR_REGISTRY.register()
class NASFCOS(FCOS):
    """FCOS with the head of MODEL.NAS_FCOS.HEAD. Targets, losses and inference are FCOS'."""

    @classmethod
    def build_head(cls, cfg, channels: int) -> GenotypeHead:
        name = cfg.MODEL.NAS_FCOS.HEAD
        genotype = load_genotype(name)
        if not isinstance(genotype, HeadGenotype):
            raise UserError(f"MODEL.NAS_FCOS.HEAD must name the genotype of a head; got {name}, which is an FPN's")
        return GenotypeHead(genotype=genotype, **cls.prediction_options(cfg, channels))

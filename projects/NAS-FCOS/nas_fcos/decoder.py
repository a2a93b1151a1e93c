"""What a search trains: FPN and head on features that a frozen network gave, with FCOS' losses.

N images, L levels.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from adet_ext.d2.config import CfgNode
from adet_ext.d2.layers import ShapeSpec
from adet_ext.d2.structures import Instances
from adet_ext.modeling.fcos import FCOS
from adet_ext.modeling.fcos.inference import Detections
from adet_ext.modeling.fcos.targets import Locations

from .fpn import GenotypeFPN
from .genotype import FPNGenotype, HeadGenotype
from .head import GenotypeHead

__all__ = ["Decoder", "build_decoder"]


class Decoder(nn.Module):
    """An FPN, or none where the features are a pyramid already, and FCOS on its levels."""

    def __init__(self, *, fpn: GenotypeFPN | None, in_features: Sequence[str], fcos: FCOS):
        """
        Args:
            in_features: names of the features that the FPN takes, finest first.
        """
        super().__init__()
        self.fpn, self.in_features, self.fcos = fpn, list(in_features), fcos

    def losses(self, features: Mapping[str, torch.Tensor], objects: Sequence[Instances]) -> dict[str, torch.Tensor]:
        """Return FCOS' three losses on features (N, ...) by name; ``objects`` has gt_boxes and gt_classes."""
        output, locations = self.fcos.head_output(self._levels(features))
        return self.fcos.losses(output, locations, objects)[0]

    def detect(self, features: Mapping[str, torch.Tensor]) -> tuple[Detections, Locations]:
        """Return the detections on features (N, ...) by name."""
        output, locations = self.fcos.head_output(self._levels(features))
        return self.fcos.detect(output, locations), locations

    def _levels(self, features: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
        return features if self.fpn is None else self.fpn([features[name] for name in self.in_features])


def build_decoder(
    cfg: CfgNode, shapes: Mapping[str, ShapeSpec], fpn: FPNGenotype | None, head: HeadGenotype | None
) -> Decoder:
    """Return the decoder of two genotypes for features of given shapes.

    Args:
        fpn: None where the features are the pyramid's levels.
        head: None for FCOS' own head (MODEL.FCOS).

    Raises:
        UserError: the FPN has fewer than three outputs, or a width does not fit.
    """
    node, width = cfg.MODEL.NAS_FCOS, cfg.MODEL.FPN.OUT_CHANNELS
    pyramid = None
    if fpn is not None:
        channels = [shapes[name].channels for name in cfg.MODEL.FPN.IN_FEATURES]
        pyramid = GenotypeFPN(genotype=fpn, in_channels=channels, width=node.WIDTH, out_channels=width, norm=node.NORM)
        shapes = {name: ShapeSpec(channels=width) for name in cfg.MODEL.FCOS.IN_FEATURES}
    options = FCOS.from_config(cfg, shapes)
    if head is not None:
        options["head"] = GenotypeHead(genotype=head, **FCOS.prediction_options(cfg, width))
    return Decoder(fpn=pyramid, in_features=cfg.MODEL.FPN.IN_FEATURES, fcos=FCOS(**options))

"""Feature pyramids on top of a backbone.

C is the number of channels of the pyramid; p3 is the level of stride 2^3, and so on.
"""

from collections.abc import Sequence
from itertools import pairwise

import fvcore.nn.weight_init as weight_init
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import CfgNode
from ..layers import Conv2d, ShapeSpec, get_norm
from .build import BACKBONE_REGISTRY, Backbone
from .resnet import build_resnet_backbone


class FPN(Backbone):
    """Feature pyramid network over the features ``in_features`` of ``bottom_up``, finest first.

    Each stride of ``in_features`` is twice the one before. Every level has ``out_channels`` channels;
    ``fuse_type`` "sum" adds the coarser level to the finer, "avg" takes their mean. ``top_block``, if given,
    adds ``top_block.num_levels`` coarser levels made from ``top_block.in_feature``, a feature of the backbone
    or a level.
    """

    def __init__(
        self,
        bottom_up: Backbone,
        in_features: Sequence[str],
        out_channels: int,
        norm: str = "",
        top_block: nn.Module | None = None,
        fuse_type: str = "sum",
    ):
        super().__init__()
        if not in_features:
            raise AssertionError("a feature pyramid needs at least one input feature (MODEL.FPN.IN_FEATURES)")
        if fuse_type not in ("sum", "avg"):
            raise AssertionError(f"fuse_type must be 'sum' or 'avg'; got '{fuse_type}'")
        shapes = bottom_up.output_shape()
        strides = [shapes[name].stride for name in in_features]
        for finer, coarser in pairwise(strides):
            if coarser != 2 * finer:
                raise AssertionError(f"the strides {strides} of {tuple(in_features)} do not double each time")
        levels = [stride.bit_length() - 1 for stride in strides]

        laterals, outputs = [], []
        for level, name in zip(levels, in_features, strict=True):
            # In this order, so that a seed gives the same weights as in Detectron2.
            lateral, output = (
                Conv2d(
                    inputs, out_channels, size, padding=size // 2, bias=norm == "", norm=get_norm(norm, out_channels)
                )
                for inputs, size in ((shapes[name].channels, 1), (out_channels, 3))
            )
            weight_init.c2_xavier_fill(lateral)
            weight_init.c2_xavier_fill(output)
            self.add_module(f"fpn_lateral{level}", lateral)
            self.add_module(f"fpn_output{level}", output)
            laterals.append(lateral)
            outputs.append(output)
        # Coarsest first, the order of building. These are plain lists, because the modules are registered above.
        self.lateral_convs = laterals[::-1]
        self.output_convs = outputs[::-1]
        self.top_block = top_block
        self.in_features = tuple(in_features)
        self.bottom_up = bottom_up
        extra = 0 if top_block is None else top_block.num_levels
        levels += range(levels[-1] + 1, levels[-1] + 1 + extra)
        self._out_feature_strides = {f"p{level}": 2**level for level in levels}
        self._out_features = list(self._out_feature_strides)
        self._out_feature_channels = dict.fromkeys(self._out_features, out_channels)
        self._size_divisibility = strides[-1]
        self._fuse_type = fuse_type

    @property
    def size_divisibility(self) -> int:
        return self._size_divisibility

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Map images (N, 3, H, W) to levels (N, C, H / stride, W / stride) by name, finest first."""
        bottom_up = self.bottom_up(x)
        merged = self.lateral_convs[0](bottom_up[self.in_features[-1]])
        results = [self.output_convs[0](merged)]
        finer = zip(self.in_features[-2::-1], self.lateral_convs[1:], self.output_convs[1:], strict=True)
        for name, lateral, output in finer:
            # Added in place to the enlarged level, which nothing else uses.
            merged = F.interpolate(merged, scale_factor=2.0, mode="nearest")
            merged += lateral(bottom_up[name])
            if self._fuse_type == "avg":
                merged /= 2
            results.insert(0, output(merged))
        if self.top_block is not None:
            source = self.top_block.in_feature
            feature = bottom_up[source] if source in bottom_up else results[self._out_features.index(source)]
            results.extend(self.top_block(feature))
        return dict(zip(self._out_features, results, strict=True))


class LastLevelMaxPool(nn.Module):
    """P6, made of every second pixel of P5."""

    def __init__(self):
        super().__init__()
        self.num_levels = 1
        self.in_feature = "p5"

    def forward(self, x: Tensor) -> list[Tensor]:
        return [F.max_pool2d(x, kernel_size=1, stride=2, padding=0)]


class LastLevelP6P7(nn.Module):
    """P6 and P7 by convolutions of stride 2, by default from the backbone's last feature."""

    def __init__(self, in_channels: int, out_channels: int, in_feature: str = "res5"):
        super().__init__()
        self.num_levels = 2
        self.in_feature = in_feature
        self.p6 = nn.Conv2d(in_channels, out_channels, 3, 2, 1)
        self.p7 = nn.Conv2d(out_channels, out_channels, 3, 2, 1)
        for module in (self.p6, self.p7):
            weight_init.c2_xavier_fill(module)

    def forward(self, x: Tensor) -> list[Tensor]:
        p6 = self.p6(x)
        return [p6, self.p7(F.relu(p6))]


@BACKBONE_REGISTRY.register()
def build_resnet_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """Return a ResNet with a pyramid up to P6."""
    bottom_up = build_resnet_backbone(cfg, input_shape)
    return _build_fpn(cfg, bottom_up, LastLevelMaxPool())


@BACKBONE_REGISTRY.register()
def build_retinanet_resnet_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """Return a ResNet with a pyramid up to P7."""
    bottom_up = build_resnet_backbone(cfg, input_shape)
    top_block = LastLevelP6P7(bottom_up.output_shape()["res5"].channels, cfg.MODEL.FPN.OUT_CHANNELS)
    return _build_fpn(cfg, bottom_up, top_block)


def _build_fpn(cfg: CfgNode, bottom_up: Backbone, top_block: nn.Module) -> FPN:
    return FPN(
        bottom_up=bottom_up,
        in_features=cfg.MODEL.FPN.IN_FEATURES,
        out_channels=cfg.MODEL.FPN.OUT_CHANNELS,
        norm=cfg.MODEL.FPN.NORM,
        top_block=top_block,
        fuse_type=cfg.MODEL.FPN.FUSE_TYPE,
    )

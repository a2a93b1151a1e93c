"""Feature pyramids P2-P7 over any body: lateral levels from the body, P6 and P7 on top.

Shapes: N images; C channels of the feature that P6 starts from; F channels of the pyramid;
H, W its size at stride 32.
"""

import functools

import fvcore.nn.weight_init as weight_init
import torch.nn.functional as F
from torch import Tensor, nn

from ...d2.layers import ShapeSpec
from ...d2.modeling import BACKBONE_REGISTRY, FPN, Backbone, build_resnet_backbone
from .aligned_fpn import AlignedFPN, AlignedPyramidAndBody
from .blur_resnet import build_blur_resnet_backbone
from .mobilenet import build_mnv2_backbone
from .pyramid_and_body import PyramidAndBody
from .resnet_interval import build_resnet_interval_backbone

_TOP_STRIDE = 32  # P6 halves P5 or C5, both at stride 32


class LastLevelP6(nn.Module):
    """P6: a stride-2 convolution on P5 or C5.

    ``num_levels`` and ``in_feature`` tell the FPN how many levels this adds, and what to feed it.
    """

    num_levels = 1

    def __init__(self, *, in_channels: int, out_channels: int, in_feature: str = "p5"):
        super().__init__()
        self.in_feature = in_feature
        self.p6 = nn.Conv2d(in_channels, out_channels, kernel_size=3, stride=2, padding=1)
        weight_init.c2_xavier_fill(self.p6)

    def forward(self, x: Tensor) -> list[Tensor]:
        """(N, C, H, W) -> [P6]: (N, F, ceil(H/2), ceil(W/2))."""
        return [self.p6(x)]


class LastLevelP6P7(nn.Module):
    """P6 as above, and P7: a stride-2 convolution on the rectified P6 (P6 itself stays signed)."""

    num_levels = 2

    def __init__(self, *, in_channels: int, out_channels: int, in_feature: str = "p5"):
        super().__init__()
        self.in_feature = in_feature
        self.p6 = nn.Conv2d(in_channels, out_channels, kernel_size=3, stride=2, padding=1)
        self.p7 = nn.Conv2d(out_channels, out_channels, kernel_size=3, stride=2, padding=1)
        for conv in (self.p6, self.p7):
            weight_init.c2_xavier_fill(conv)

    def forward(self, x: Tensor) -> list[Tensor]:
        """(N, C, H, W) -> [P6, P7], each half the size of the one before."""
        p6 = self.p6(x)
        return [p6, self.p7(F.relu(p6))]


_TOP_BLOCKS = {0: None, 1: LastLevelP6, 2: LastLevelP6P7}


def _build_top_block(cfg, shapes: dict[str, ShapeSpec]) -> nn.Module | None:
    levels, source = cfg.MODEL.FCOS.TOP_LEVELS, cfg.MODEL.FCOS.TOP_FEATURE
    if levels not in _TOP_BLOCKS:
        raise ValueError(f"MODEL.FCOS.TOP_LEVELS is {levels!r}; it takes 0 (P5 is the last), 1 (P6) or 2 (P6 and P7).")
    if source not in ("p5", "res5"):
        raise ValueError(
            f"MODEL.FCOS.TOP_FEATURE is {source!r}; it takes 'p5' or 'res5' (C5, whatever the body calls it)."
        )
    if levels == 0:
        return None
    last = cfg.MODEL.FPN.IN_FEATURES[-1]
    if shapes[last].stride != _TOP_STRIDE:
        raise ValueError(
            f"MODEL.FCOS.TOP_LEVELS = {levels} adds P6 above P5 (stride {_TOP_STRIDE}), but "
            f"MODEL.FPN.IN_FEATURES ends with {last!r} at stride {shapes[last].stride}. "
            f"End it with the feature of stride {_TOP_STRIDE}, or set MODEL.FCOS.TOP_LEVELS to 0."
        )
    width = cfg.MODEL.FPN.OUT_CHANNELS
    if source == "p5":
        return _TOP_BLOCKS[levels](in_channels=width, out_channels=width, in_feature="p5")
    return _TOP_BLOCKS[levels](in_channels=shapes[last].channels, out_channels=width, in_feature=last)


def build_fcos_fpn(cfg, bottom_up: Backbone) -> FPN:
    """The pyramid that FCOS works on, over ``bottom_up``.

    ``MODEL.FPN.IN_FEATURES`` names the features of the body, finest first; one of stride 2**i gives "p{i}".
    ``MODEL.FCOS.TOP_LEVELS`` levels go on top, fed by ``MODEL.FCOS.TOP_FEATURE``.

    Raises:
        ValueError: a feature that the body does not give, or a top that does not fit.
    """
    shapes = bottom_up.output_shape()
    missing = [name for name in cfg.MODEL.FPN.IN_FEATURES if name not in shapes]
    if missing or not cfg.MODEL.FPN.IN_FEATURES:
        raise ValueError(
            f"MODEL.FPN.IN_FEATURES is {list(cfg.MODEL.FPN.IN_FEATURES)}, but {type(bottom_up).__name__} "
            f"gives {list(shapes)}. Name features of that list; the body's own OUT_FEATURES key may widen it."
        )
    handed_on = [name for name in cfg.MODEL.BASIS_MODULE.IN_FEATURES if name in shapes]
    make = functools.partial(PyramidAndBody, handed_on=handed_on) if handed_on else FPN
    divisibility = cfg.MODEL.BACKBONE.SIZE_DIVISIBILITY
    if divisibility:
        aligned = functools.partial(AlignedPyramidAndBody, handed_on=handed_on) if handed_on else AlignedFPN
        make = functools.partial(aligned, size_divisibility=divisibility)
    return make(
        bottom_up=bottom_up,
        in_features=cfg.MODEL.FPN.IN_FEATURES,
        out_channels=cfg.MODEL.FPN.OUT_CHANNELS,
        norm=cfg.MODEL.FPN.NORM,
        top_block=_build_top_block(cfg, shapes),
        fuse_type=cfg.MODEL.FPN.FUSE_TYPE,
    )


@BACKBONE_REGISTRY.register()
def build_fcos_resnet_fpn_backbone(cfg, input_shape: ShapeSpec) -> FPN:
    """FPN over a ResNet, over one with deformable intervals, or over MobileNetV2, as the config says.

    ``MODEL.RESNETS.DEFORM_INTERVAL`` > 1 goes before ``MODEL.MOBILENET``.

    Raises:
        ValueError: ``MODEL.BACKBONE.ANTI_ALIAS``, which this version does not build.
    """
    if cfg.MODEL.BACKBONE.ANTI_ALIAS:
        raise ValueError(
            "MODEL.BACKBONE.ANTI_ALIAS is True, but AdelaiDet's anti-aliased ResNet has parameters of its own and is "
            "not built here. SmalMask's, with the plain ResNet's parameters, is MODEL.BACKBONE.NAME "
            "build_fcos_blur_resnet_fpn_backbone. Set ANTI_ALIAS to False."
        )
    if cfg.MODEL.RESNETS.DEFORM_INTERVAL > 1:
        bottom_up = build_resnet_interval_backbone(cfg, input_shape)
    elif cfg.MODEL.MOBILENET:
        bottom_up = build_mnv2_backbone(cfg, input_shape)
    else:
        bottom_up = build_resnet_backbone(cfg, input_shape)
    return build_fcos_fpn(cfg, bottom_up)


@BACKBONE_REGISTRY.register()
def build_fcos_blur_resnet_fpn_backbone(cfg, input_shape: ShapeSpec) -> FPN:
    """FPN over a ResNet whose strided convolutions are BlurConv, as ``MODEL.RESNETS.BLUR`` says (thesis 3.3.2)."""
    return build_fcos_fpn(cfg, build_blur_resnet_backbone(cfg, input_shape))

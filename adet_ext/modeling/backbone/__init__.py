"""Backbones: registering them happens on import; a config names one by ``MODEL.BACKBONE.NAME``."""

from .blur_resnet import BlurPoolStem, blur_resnet, build_blur_resnet_backbone
from .dla import DLA, build_fcos_dla_fpn_backbone
from .efficientnet_lite import (
    EfficientNetLite,
    build_efficientnet_lite_backbone,
    build_fcos_efficientnet_lite_fpn_backbone,
)
from .fpn import (
    LastLevelP6,
    LastLevelP6P7,
    build_fcos_blur_resnet_fpn_backbone,
    build_fcos_fpn,
    build_fcos_resnet_fpn_backbone,
)
from .mobilenet import MobileNetV2, build_mnv2_backbone
from .resnet_interval import build_resnet_interval_backbone
from .vovnet import VoVNet, build_fcos_vovnet_fpn_backbone, build_vovnet_backbone

__all__ = [
    "BlurPoolStem",
    "DLA",
    "EfficientNetLite",
    "LastLevelP6",
    "LastLevelP6P7",
    "MobileNetV2",
    "VoVNet",
    "blur_resnet",
    "build_blur_resnet_backbone",
    "build_efficientnet_lite_backbone",
    "build_fcos_blur_resnet_fpn_backbone",
    "build_fcos_dla_fpn_backbone",
    "build_fcos_efficientnet_lite_fpn_backbone",
    "build_fcos_fpn",
    "build_fcos_resnet_fpn_backbone",
    "build_fcos_vovnet_fpn_backbone",
    "build_mnv2_backbone",
    "build_resnet_interval_backbone",
    "build_vovnet_backbone",
]

"""The encoder: any backbone with features at strides 4, 8, 16 and 32, and MobileNetV2 as the thesis has it."""

from collections.abc import Mapping

from adet_ext.d2.layers import ShapeSpec
from adet_ext.d2.modeling import BACKBONE_REGISTRY
from adet_ext.errors import UserError
from adet_ext.modeling.backbone import MobileNetV2

__all__ = ["STRIDES", "build_video_mnv2_backbone", "features_by_stride"]

STRIDES = (4, 8, 16, 32)


def features_by_stride(shapes: Mapping[str, ShapeSpec]) -> list[str]:
    """Return the names of a backbone's features at strides 4, 8, 16 and 32; of several at a stride, the last.

    Raises:
        UserError: a stride is missing.
    """
    by_stride = {shape.stride: name for name, shape in shapes.items()}
    missing = [stride for stride in STRIDES if stride not in by_stride]
    if missing:
        given = ", ".join(f"{name} (stride {shape.stride})" for name, shape in shapes.items())
        raise UserError(
            f"MODEL.BACKBONE.NAME must be a backbone with features at strides 4, 8, 16 and 32; got {given or 'none'}. "
            "Name another one, or set its list of features, such as MODEL.RESNETS.OUT_FEATURES"
        )
    return [by_stride[stride] for stride in STRIDES]


@BACKBONE_REGISTRY.register()
def build_video_mnv2_backbone(cfg, input_shape: ShapeSpec) -> MobileNetV2:
    """MobileNetV2 whose first block has a 1x1 convolution too, as in nas-segm-pytorch: 1,812,800 parameters."""
    return MobileNetV2(
        in_channels=input_shape.channels,
        out_features=["res2", "res3", "res4", "res5"],
        freeze_at=cfg.MODEL.BACKBONE.FREEZE_AT,
        always_widen=True,
    )

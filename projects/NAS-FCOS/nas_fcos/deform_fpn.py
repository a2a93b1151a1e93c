"""DeformFPN (thesis 7.4.3): the ordinary FPN with deformable convolutions, the control for what the search adds."""

from torch import nn

from adet_ext.d2.layers import ShapeSpec
from adet_ext.d2.modeling import BACKBONE_REGISTRY, FPN
from adet_ext.errors import UserError
from adet_ext.layers.deform import ModulatedDeformBlock
from adet_ext.modeling.backbone import build_fcos_fpn

from .fpn import build_body
from .operations import DEFORMABLE_GROUPS

__all__ = ["build_deform_fpn_backbone", "make_deformable"]


def make_deformable(fpn: FPN, repeats: int) -> None:
    """Replace each 3x3 convolution on P3 to P5 by ``repeats`` deformable ones, in place.

    They are the ones of NAS-FCOS (DCNv2, two groups), without norm or activation, as the FPN's are. P6 and P7 keep
    their strided convolutions.
    """
    for i, old in enumerate(fpn.output_convs):
        channels = old.out_channels
        blocks = [
            ModulatedDeformBlock(channels, channels, groups=DEFORMABLE_GROUPS, zero_offsets=True)
            for _ in range(repeats)
        ]
        for block in blocks:
            nn.init.kaiming_uniform_(block.conv.weight, a=1)  # as the FPN's own convolutions
        new = nn.Sequential(*blocks)
        name = next(name for name, module in fpn.named_children() if module is old)
        fpn.add_module(name, new)
        fpn.output_convs[i] = new


@BACKBONE_REGISTRY.register()
def build_deform_fpn_backbone(cfg, input_shape: ShapeSpec) -> FPN:
    """FCOS' pyramid over a ResNet or MobileNetV2, with MODEL.NAS_FCOS.DEFORM_REPEATS deformable convolutions each."""
    repeats = cfg.MODEL.NAS_FCOS.DEFORM_REPEATS
    if repeats < 1:
        raise UserError(f"MODEL.NAS_FCOS.DEFORM_REPEATS must be 1 or more; got {repeats}")
    fpn = build_fcos_fpn(cfg, build_body(cfg, input_shape))
    make_deformable(fpn, repeats)
    return fpn

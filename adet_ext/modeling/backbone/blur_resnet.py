"""ResNet with BlurConv in place of strided convolutions (thesis 3.3.2, equation 3.4; Table 3.5).

It is Detectron2's ResNet, whichever depth, norm and freezing ``MODEL.RESNETS`` and ``MODEL.BACKBONE`` say, whose
strided convolutions are exchanged once it is built. Parameters keep their names and shapes: the plain ResNet's ImageNet
weights load, and a blurred checkpoint loads into the plain one.

Zhang (2019) blurs after the activation; equation 3.4 blurs right after the convolution, before its norm, and so do we.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from ...d2.layers import ShapeSpec
from ...d2.modeling import (
    BACKBONE_REGISTRY,
    BasicStem,
    ResNet,
    build_resnet_backbone,
)
from ...layers.blur_conv import BlurConv2d
from ...layers.blur_pool import PADDINGS, TAPS, blur_pool

__all__ = ["BlurPoolStem", "blur_resnet", "build_blur_resnet_backbone"]


class BlurPoolStem(BasicStem):
    """The ResNet's stem whose max pool runs at stride 1 and is blurred to stride 2 (Zhang's MaxBlurPool, 3x3)."""

    taps, padding = 3, "reflect"

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, O, H / 4, W / 4)."""
        x = F.max_pool2d(F.relu_(self.conv1(x)), kernel_size=3, stride=1, padding=1)
        return blur_pool(x, taps=self.taps, stride=2, padding=self.padding)


def blur_resnet(
    resnet: ResNet,
    *,
    taps: int = 3,
    padding: str = "reflect",
    stem: bool = True,
    max_pool: bool = False,
    stages: bool = True,
    shortcut: bool = True,
) -> ResNet:
    """Exchange, in place, what subsamples in ``resnet`` for its anti-aliased form, and return it.

    Args:
        taps, padding: of the blur, see :func:`~adet_ext.layers.blur_pool.blur_pool`.
        stem: the stem's 7x7 convolution.
        max_pool: the stem's max pool, as :class:`BlurPoolStem`.
        stages: the strided convolution on the residual branch of each stage's first block, 3x3 or 1x1.
        shortcut: the 1x1 convolution beside it.

    Raises:
        ValueError: a strided convolution to exchange is deformable.
    """
    if stem:
        _exchange(resnet.stem, "conv1", taps, padding)
    if max_pool:
        # The class alone decides what follows the convolution, and building another stem would draw new weights.
        resnet.stem.__class__ = BlurPoolStem
        resnet.stem.taps, resnet.stem.padding = taps, padding
    for stage in resnet.stages:
        for block in stage:
            if block.stride == 1:
                continue
            if stages and hasattr(block, "conv2_offset") and tuple(block.conv2.stride) != (1, 1):
                raise ValueError(
                    "MODEL.RESNETS.BLUR.STAGES is True, but a strided convolution is deformable, which has no blurred "
                    "form; set it to False, or MODEL.RESNETS.DEFORM_ON_PER_STAGE"
                )
            for name in ("conv1", "conv2") if stages else ():
                _exchange(block, name, taps, padding)
            if shortcut:
                _exchange(block, "shortcut", taps, padding)
    return resnet


def _exchange(owner: nn.Module, name: str, taps: int, padding: str) -> None:
    conv = getattr(owner, name)
    if isinstance(conv, nn.Conv2d) and conv.stride != (1, 1):
        setattr(owner, name, BlurConv2d.from_conv(conv, taps=taps, blur_padding=padding))


@BACKBONE_REGISTRY.register()
def build_blur_resnet_backbone(cfg, input_shape: ShapeSpec) -> ResNet:
    """The ResNet of ``MODEL.RESNETS`` with ``MODEL.RESNETS.BLUR`` in it.

    Raises:
        ValueError: keys of ``MODEL.RESNETS.BLUR`` that describe no blur, or a deformable strided convolution.
    """
    node = cfg.MODEL.RESNETS.BLUR
    if node.TAPS not in TAPS:
        raise ValueError(f"MODEL.RESNETS.BLUR.TAPS is {node.TAPS}; it takes 1 to 7.")
    if node.PADDING not in PADDINGS:
        raise ValueError(f"MODEL.RESNETS.BLUR.PADDING is {node.PADDING!r}; it takes {', '.join(PADDINGS)}.")
    return blur_resnet(
        build_resnet_backbone(cfg, input_shape),
        taps=node.TAPS,
        padding=node.PADDING,
        stem=node.STEM,
        max_pool=node.MAX_POOL,
        stages=node.STAGES,
        shortcut=node.SHORTCUT,
    )

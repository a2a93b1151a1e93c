"""EfficientNet-Lite (Tan and Le, 2019, as revised for mobile devices in 2020) as a detection body.

It is EfficientNet without squeeze-and-excitation, with ReLU6 for swish, and with a stem of fixed width. Lite0 has 24,
40, 112 and 320 channels at strides 4, 8, 16 and 32.

N images of H x W pixels; C channels.
"""

import functools
import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...d2.layers import Conv2d, FrozenBatchNorm2d, ShapeSpec, get_norm
from ...d2.modeling import BACKBONE_REGISTRY, FPN, Backbone
from ...utils.observed import operators_are_observed
from .fpn import build_fcos_fpn

__all__ = [
    "EfficientNetLite",
    "LITE_VARIANTS",
    "build_efficientnet_lite_backbone",
    "build_fcos_efficientnet_lite_fpn_backbone",
    "lite_repeats",
]


class _Row(NamedTuple):
    """A stage at width and depth 1: its blocks, and the name of what the last of them gives."""

    expansion: int
    kernel: int
    stride: int
    channels: int
    repeats: int
    feature: str | None


_STEM_CHANNELS = 32
_ROWS = (
    _Row(1, 3, 1, 16, 1, "stem"),
    _Row(6, 3, 2, 24, 2, "res2"),
    _Row(6, 5, 2, 40, 2, "res3"),
    _Row(6, 3, 2, 80, 3, None),
    _Row(6, 5, 1, 112, 3, "res4"),
    _Row(6, 5, 2, 192, 4, None),
    _Row(6, 3, 1, 320, 1, "res5"),
)
# What a variant multiplies channels and repeats by.
LITE_VARIANTS = {
    "lite0": (1.0, 1.0),
    "lite1": (1.0, 1.1),
    "lite2": (1.1, 1.2),
    "lite3": (1.2, 1.4),
    "lite4": (1.4, 1.8),
}
_PADDINGS = ("same", "symmetric")
_MOMENTUM = 0.01  # of the running statistics, as the weights were trained


def lite_repeats(variant: str) -> list[int]:
    """Return how many blocks each of the seven stages has; the first and the last one do not grow."""
    depth = LITE_VARIANTS[variant][1]
    return [row.repeats if row in (_ROWS[0], _ROWS[-1]) else math.ceil(row.repeats * depth) for row in _ROWS]


def _width(channels: int, factor: float) -> int:
    """Scale a number of channels to a multiple of 8 that is not more than 10 % below what was asked for."""
    wanted = channels * factor
    rounded = max(8, int(wanted + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * wanted else rounded


class _LiteConv2d(Conv2d):
    """A convolution with norm and activation that may be padded as TensorFlow does, by no more than its windows need.

    With ``same``, the output has ceil(H / stride) rows. An odd number of padded rows has the odd one at the bottom: on
    even sizes, windows are one pixel further down and right than with symmetric padding.
    """

    same = False

    def forward(self, x: Tensor) -> Tensor:
        norm, weight, bias = self.norm, self.weight, self.bias
        # A frozen norm in the weights saves passes over memory in training too, where the engines apply it apart.
        if not (self.same or torch.is_grad_enabled() and isinstance(norm, FrozenBatchNorm2d)):
            return super().forward(x)
        fixed = isinstance(norm, FrozenBatchNorm2d) or isinstance(norm, nn.BatchNorm2d) and not norm.training
        if fixed:
            scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
            bias = (norm.bias - norm.running_mean * scale).to(weight.dtype)
            weight = (weight * scale[:, None, None, None]).to(weight.dtype)
        padding = self.padding
        if self.same:
            x, weight, padding = _pad_same(x, weight, self.stride)
        x = F.conv2d(x, weight, bias, self.stride, padding, self.dilation, self.groups)
        x = x if fixed or norm is None else norm(x)
        return x if self.activation is None else self.activation(x)


def _pad_same(x: Tensor, weight: Tensor, stride: tuple[int, int]) -> tuple[Tensor, Tensor, tuple[int, int]]:
    """Return map, weights and padding of a convolution that is the same as one with TensorFlow's padding.

    Where a map needs one row more at its end, a CPU takes a kernel with a row of zeros before its first, and the same
    padding at both ends. Padding the map itself would copy it, which takes longer than a depthwise convolution. What
    traces or counts operators gets the plain convolution.
    """
    rows, columns = (_same(*sizes) for sizes in zip(x.shape[-2:], weight.shape[-2:], stride))
    if x.is_cpu and not operators_are_observed():
        ahead = [end - begin for begin, end in (columns, rows)]
        return x, F.pad(weight, (ahead[0], 0, ahead[1], 0)) if any(ahead) else weight, (rows[1], columns[1])
    return F.pad(x, (*columns, *rows)), weight, (0, 0)


def _same(size: int, kernel: int, stride: int) -> tuple[int, int]:
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


class _Layers(NamedTuple):
    """What all convolutions of a body share."""

    norm: str
    eps: float
    padding: str

    def conv(self, in_channels: int, channels: int, kernel: int, stride: int = 1, groups: int = 1, relu: bool = True):
        norm = get_norm(self.norm, channels)
        if isinstance(norm, nn.BatchNorm2d | FrozenBatchNorm2d):
            norm.eps = self.eps
        if isinstance(norm, nn.BatchNorm2d):
            norm.momentum = _MOMENTUM
        same = self.padding == "same" and stride > 1
        conv = _LiteConv2d(
            in_channels,
            channels,
            kernel,
            stride=stride,
            padding=0 if same else kernel // 2,
            groups=groups,
            bias=False,
            norm=norm,
            activation=functools.partial(F.relu6, inplace=True) if relu else None,
        )
        conv.same = same
        return conv


class _Block(nn.Module):
    """Widens (1x1; not at expansion 1), filters each channel, narrows without an activation (1x1).

    The input is added where its shape is that of the result.
    """

    def __init__(self, *, in_channels: int, channels: int, kernel: int, stride: int, expansion: int, layers: _Layers):
        super().__init__()
        width = in_channels * expansion
        self.expand = layers.conv(in_channels, width, 1) if expansion != 1 else None
        self.depthwise = layers.conv(width, width, kernel, stride, groups=width)
        self.project = layers.conv(width, channels, 1, relu=False)
        self.skip = stride == 1 and in_channels == channels

    def forward(self, x: Tensor) -> Tensor:
        y = x if self.expand is None else self.expand(x)
        y = self.project(self.depthwise(y))
        return x + y if self.skip else y


class EfficientNetLite(Backbone):
    """EfficientNet-Lite without its last 1x1 convolution and classifier.

    Args:
        variant: "lite0" to "lite4".
        norm: as for ``get_norm``.
        eps: of the norms: 0.001 for weights from TensorFlow, 0.00001 for those trained in timm.
        padding: of the strided convolutions: "same", TensorFlow's, or "symmetric" for weights trained in timm.
        in_channels: channels of the images.
        out_features: which of "stem" (stride 2), "res2" (4), "res3" (8), "res4" (16) and "res5" (32) to return.
            Stages after the last of them are not built.
        freeze_at: 0 and below freeze nothing, 1 the stem with its first block, 2 what leads to res2 too, and so on;
            frozen norms have fixed statistics.

    Raises:
        ValueError: an unknown variant, padding or feature.
    """

    def __init__(
        self,
        *,
        variant: str = "lite0",
        norm: str = "FrozenBN",
        eps: float = 1e-3,
        padding: str = "same",
        in_channels: int = 3,
        out_features: list[str],
        freeze_at: int = 0,
    ):
        super().__init__()
        names = [row.feature for row in _ROWS if row.feature]
        for key, value, known in (
            ("EFFICIENTNET_LITE.VARIANT", variant, LITE_VARIANTS),
            ("EFFICIENTNET_LITE.PADDING", padding, _PADDINGS),
            *(("RESNETS.OUT_FEATURES", name, names) for name in out_features),
        ):
            if value not in known:
                raise ValueError(f"MODEL.{key} must be of {', '.join(known)}; got {value!r}. Correct it")
        width = LITE_VARIANTS[variant][0]
        layers = _Layers(norm, eps, padding)
        self.stem = layers.conv(in_channels, _STEM_CHANNELS, 3, stride=2)
        self.blocks = nn.ModuleList()
        self._feature_of_block: dict[int, str] = {}
        self._out_features = list(out_features)
        self._out_feature_channels, self._out_feature_strides = {}, {}
        channels, stride = _STEM_CHANNELS, 2
        last = max((i for i, row in enumerate(_ROWS) if row.feature in out_features), default=len(_ROWS) - 1)
        for row, repeats in list(zip(_ROWS, lite_repeats(variant)))[: last + 1]:
            stride *= row.stride
            for index in range(repeats):
                self.blocks.append(
                    _Block(
                        in_channels=channels,
                        channels=(channels_out := _width(row.channels, width)),
                        kernel=row.kernel,
                        stride=row.stride if index == 0 else 1,
                        expansion=row.expansion,
                        layers=layers,
                    )
                )
                channels = channels_out
            if row.feature:
                self._feature_of_block[len(self.blocks) - 1] = row.feature
                self._out_feature_channels[row.feature] = channels
                self._out_feature_strides[row.feature] = stride
        self._init_weights()
        self.freeze(freeze_at)

    def _init_weights(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                # The fan counts no groups, so that depth-wise filters start small, as the original's.
                fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels
                nn.init.normal_(module.weight, std=math.sqrt(2.0 / fan_out))

    def freeze(self, freeze_at: int) -> None:
        """Freeze the first ``freeze_at`` of the five parts that end with a feature, statistics included."""
        if freeze_at <= 0:
            return
        ends = list(self._feature_of_block)
        for part in (self.stem, *self.blocks[: ends[min(freeze_at, len(ends)) - 1] + 1]):
            part.requires_grad_(False)
            FrozenBatchNorm2d.convert_frozen_batchnorm(part)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """(N, in_channels, H, W) -> the features asked for, by name; sizes are halved rounding up."""
        outputs = {}
        x = self.stem(x)
        for index, block in enumerate(self.blocks):
            x = block(x)
            name = self._feature_of_block.get(index)
            if name in self._out_features:
                outputs[name] = x
        return outputs


@BACKBONE_REGISTRY.register()
def build_efficientnet_lite_backbone(cfg, input_shape: ShapeSpec) -> EfficientNetLite:
    """EfficientNet-Lite of ``MODEL.EFFICIENTNET_LITE``, ``RESNETS.OUT_FEATURES`` and ``BACKBONE.FREEZE_AT``."""
    lite = cfg.MODEL.EFFICIENTNET_LITE
    return EfficientNetLite(
        variant=lite.VARIANT,
        norm=lite.NORM,
        eps=lite.NORM_EPS,
        padding=lite.PADDING,
        in_channels=input_shape.channels,
        out_features=cfg.MODEL.RESNETS.OUT_FEATURES,
        freeze_at=cfg.MODEL.BACKBONE.FREEZE_AT,
    )


@BACKBONE_REGISTRY.register()
def build_fcos_efficientnet_lite_fpn_backbone(cfg, input_shape: ShapeSpec) -> FPN:
    """FPN over EfficientNet-Lite; ``MODEL.FPN.IN_FEATURES`` names "res2" to "res5"."""
    return build_fcos_fpn(cfg, build_efficientnet_lite_backbone(cfg, input_shape))

"""MobileNetV2 (Sandler et al., 2018) as a detection body: four features at strides 4 to 32."""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ...d2.layers import ShapeSpec
from ...d2.modeling import BACKBONE_REGISTRY, Backbone


class _Row(NamedTuple):
    """Like a row of the paper's Table 2: t, c, n, s, and the name of what the row's last block gives."""

    expansion: int
    channels: int
    blocks: int
    stride: int
    feature: str | None


_STEM_CHANNELS = 32
_ROWS = (
    _Row(1, 16, 1, 1, None),
    _Row(6, 24, 2, 2, "res2"),
    _Row(6, 32, 3, 2, "res3"),
    _Row(6, 64, 4, 2, None),
    _Row(6, 96, 3, 1, "res4"),
    _Row(6, 160, 3, 2, None),
    _Row(6, 320, 1, 1, "res5"),
)


def _conv_norm(in_channels: int, out_channels: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    conv = nn.Conv2d(in_channels, out_channels, kernel, stride=stride, padding=kernel // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(out_channels)]


class InvertedResidual(nn.Module):
    """Widens (1x1; not at expansion 1 unless ``always_widen``), filters each channel (3x3), narrows without ReLU (1x1).

    The input is added where its shape is that of the result.
    """

    def __init__(self, *, in_channels: int, out_channels: int, stride: int, expansion: int, always_widen: bool = False):
        super().__init__()
        width = in_channels * expansion
        layers = []
        if expansion != 1 or always_widen:
            layers += _conv_norm(in_channels, width, 1) + [nn.ReLU6(inplace=True)]
        layers += _conv_norm(width, width, 3, stride, groups=width) + [nn.ReLU6(inplace=True)]
        layers += _conv_norm(width, out_channels, 1)
        self.conv = nn.Sequential(*layers)
        self.skip = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.skip else self.conv(x)


class MobileNetV2(Backbone):
    """MobileNetV2 of width 1, without its last 1x1 convolution and classifier.

    Args:
        in_channels: channels of the picture.
        out_features: which of "res2" (24 channels, stride 4), "res3" (32, 8), "res4" (96, 16) and
            "res5" (320, 32) to return.
        freeze_at: how many entries of ``features`` (the stem, then single blocks) have their parameters
            frozen; none if not above 0. Their batch norms go on collecting statistics in training, as in
            AdelaiDet.
        always_widen: keep the 1x1 convolution and its norm also in the first block, where it does not widen, as the
            encoder of nas-segm-pytorch does: 1,088 parameters more.

    Raises:
        ValueError: an unknown name in ``out_features``, or more layers to freeze than there are.
    """

    def __init__(
        self, *, in_channels: int = 3, out_features: list[str], freeze_at: int = 0, always_widen: bool = False
    ):
        super().__init__()
        self.features = nn.ModuleList(
            [nn.Sequential(*_conv_norm(in_channels, _STEM_CHANNELS, 3, stride=2), nn.ReLU6(inplace=True))]
        )
        self._feature_of_layer = {}
        self._out_feature_channels, self._out_feature_strides = {}, {}
        channels, stride = _STEM_CHANNELS, 2
        for row in _ROWS:
            for index in range(row.blocks):
                self.features.append(
                    InvertedResidual(
                        in_channels=channels,
                        out_channels=row.channels,
                        stride=row.stride if index == 0 else 1,
                        expansion=row.expansion,
                        always_widen=always_widen,
                    )
                )
                channels = row.channels
            stride *= row.stride
            if row.feature is not None:
                self._feature_of_layer[len(self.features) - 1] = row.feature
                self._out_feature_channels[row.feature] = channels
                self._out_feature_strides[row.feature] = stride
        if unknown := [name for name in out_features if name not in self._out_feature_strides]:
            raise ValueError(
                f"MobileNetV2 has no feature {unknown[0]!r}; MODEL.RESNETS.OUT_FEATURES may name "
                f"{list(self._out_feature_strides)}."
            )
        if freeze_at > len(self.features):
            raise ValueError(
                f"MODEL.BACKBONE.FREEZE_AT is {freeze_at}, but MobileNetV2 has {len(self.features)} layers."
            )
        self._out_features = list(out_features)
        self._always_widens = always_widen
        self._init_weights()
        for layer in self.features[: max(freeze_at, 0)]:
            layer.requires_grad_(False)

    def _init_weights(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                # As the original: the fan counts no groups, so depth-wise filters start small.
                fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels
                nn.init.normal_(module.weight, std=math.sqrt(2.0 / fan_out))

    def fit_foreign(self, state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
        """Return the weights of the usual net, named from ``prefix`` on, for this one.

        A first block that always widens gets the identity for it, which changes nothing: what it is given has passed a
        ReLU6 already.
        """
        if not self._always_widens:
            return state
        first = f"{prefix}features.1.conv."
        fitted = {}
        for name, value in state.items():
            place, _, rest = name.removeprefix(first).partition(".")
            fitted[f"{first}{int(place) + 3}.{rest}" if name.startswith(first) else name] = value
        norm = self.features[1].conv[1]
        one = torch.ones(norm.num_features)
        fitted[f"{first}0.weight"] = torch.eye(norm.num_features)[:, :, None, None]
        fitted |= {f"{first}1.weight": one, f"{first}1.running_var": one - norm.eps}
        fitted |= {f"{first}1.{name}": torch.zeros(norm.num_features) for name in ("bias", "running_mean")}
        return fitted

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """(N, in_channels, H, W) -> the features asked for, by name."""
        outputs = {}
        for index, layer in enumerate(self.features):
            x = layer(x)
            name = self._feature_of_layer.get(index)
            if name in self._out_features:
                outputs[name] = x
        return outputs


@BACKBONE_REGISTRY.register()
def build_mnv2_backbone(cfg, input_shape: ShapeSpec) -> MobileNetV2:
    """MobileNetV2 with ``MODEL.RESNETS.OUT_FEATURES``; ``MODEL.BACKBONE.FREEZE_AT`` counts its layers."""
    return MobileNetV2(
        in_channels=input_shape.channels,
        out_features=cfg.MODEL.RESNETS.OUT_FEATURES,
        freeze_at=cfg.MODEL.BACKBONE.FREEZE_AT,
    )

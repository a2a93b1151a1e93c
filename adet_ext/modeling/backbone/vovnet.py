"""VoVNetV2 (Lee and Park, 2020): one-shot aggregation, with effective squeeze-and-excitation (eSE)."""

from collections import OrderedDict
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...d2.layers import FrozenBatchNorm2d, ShapeSpec, get_norm
from ...d2.modeling import BACKBONE_REGISTRY, FPN, Backbone
from .fpn import build_fcos_fpn


class _Body(NamedTuple):
    """Channels and counts; the four-tuples run over stages 2 to 5."""

    modules: tuple[int, ...]  # one-shot aggregation modules
    layers: int  # 3x3 convolutions in each of them
    inner: tuple[int, ...] = (128, 160, 192, 224)  # channels of each 3x3 convolution
    outer: tuple[int, ...] = (256, 512, 768, 1024)  # channels after aggregation
    stem: tuple[int, ...] = (64, 64, 128)
    depthwise: bool = False


_SLIM = {"inner": (64, 80, 96, 112), "outer": (112, 256, 384, 512)}
_DEPTHWISE = {"stem": (64, 64, 64), "depthwise": True}
_BODIES = {
    "V-19-slim-dw-eSE": _Body((1, 1, 1, 1), 3, **_SLIM, **_DEPTHWISE),
    "V-19-dw-eSE": _Body((1, 1, 1, 1), 3, **_DEPTHWISE),
    "V-19-slim-eSE": _Body((1, 1, 1, 1), 3, **_SLIM),
    "V-19-eSE": _Body((1, 1, 1, 1), 3),
    "V-39-eSE": _Body((1, 1, 2, 2), 5),
    "V-57-eSE": _Body((1, 1, 4, 3), 5),
    "V-99-eSE": _Body((1, 3, 9, 3), 5),
}
_STAGES = ("stage2", "stage3", "stage4", "stage5")

# Published weights name each layer after its module again, with slashes: "stem.stem_1/conv.weight".
_Layers = list[tuple[str, nn.Module]]


def _conv(name: str, in_channels: int, out_channels: int, *, norm: str, kernel: int = 3, stride: int = 1) -> _Layers:
    conv = nn.Conv2d(in_channels, out_channels, kernel, stride=stride, padding=kernel // 2, bias=False)
    return [
        (f"{name}/conv", conv),
        (f"{name}/norm", get_norm(norm, out_channels)),
        (f"{name}/relu", nn.ReLU(inplace=True)),
    ]


def _separable_conv(name: str, in_channels: int, out_channels: int, *, norm: str, stride: int = 1) -> _Layers:
    depthwise = nn.Conv2d(in_channels, in_channels, 3, stride=stride, padding=1, groups=in_channels, bias=False)
    return [
        (f"{name}/dw_conv3x3", depthwise),
        (f"{name}/pw_conv1x1", nn.Conv2d(in_channels, out_channels, 1, bias=False)),
        (f"{name}/pw_norm", get_norm(norm, out_channels)),
        (f"{name}/pw_relu", nn.ReLU(inplace=True)),
    ]


def _sequence(layers: _Layers) -> nn.Sequential:
    return nn.Sequential(OrderedDict(layers))


class EffectiveSE(nn.Module):
    """Scales each channel by the hard sigmoid of a linear map of all channels' means."""

    def __init__(self, channels: int):
        super().__init__()
        self.fc = nn.Conv2d(channels, channels, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        gate = self.fc(F.adaptive_avg_pool2d(x, 1))  # (N, C, 1, 1)
        return x * (F.relu6(gate + 3.0, inplace=True) / 6.0)


class OneShotAggregation(nn.Module):
    """A chain of 3x3 convolutions; its input and all their outputs are joined once, at the end.

    Args:
        name: that the parameters' names repeat.
        residual: adds the input (which then has ``out_channels``) to the result.
    """

    def __init__(
        self,
        *,
        name: str,
        in_channels: int,
        inner_channels: int,
        out_channels: int,
        layers: int,
        depthwise: bool,
        residual: bool,
        norm: str,
    ):
        super().__init__()
        self.residual = residual
        conv = _separable_conv if depthwise else _conv
        channels = in_channels
        self.layers = nn.ModuleList()
        self.conv_reduction = None
        if depthwise and in_channels != inner_channels:
            # A published layout: the chain is narrowed once, before its separable convolutions.
            reduction = _conv(f"{name}_reduction_0", channels, inner_channels, norm=norm, kernel=1)
            self.conv_reduction = _sequence(reduction)
            channels = inner_channels
        for index in range(layers):
            self.layers.append(_sequence(conv(f"{name}_{index}", channels, inner_channels, norm=norm)))
            channels = inner_channels
        joined = in_channels + layers * inner_channels
        self.concat = _sequence(_conv(f"{name}_concat", joined, out_channels, norm=norm, kernel=1))
        self.ese = EffectiveSE(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        collected = [x]
        y = x if self.conv_reduction is None else self.conv_reduction(x)
        for layer in self.layers:
            y = layer(y)
            collected.append(y)
        out = self.ese(self.concat(torch.cat(collected, dim=1)))
        return out + x if self.residual else out


class VoVNet(Backbone):
    """VoVNetV2 without its classifier.

    Args:
        body: "V-19-eSE", "V-39-eSE", "V-57-eSE", "V-99-eSE"; "V-19-slim-eSE", "V-19-dw-eSE" (depth-wise
            separable), "V-19-slim-dw-eSE".
        norm: as for ``get_norm``.
        in_channels: channels of the picture.
        out_features: which of "stem" (stride 4), "stage2" (4), "stage3" (8), "stage4" (16) and "stage5"
            (32) to return.
        freeze_at: 1 freezes the stem, 2 stage 2 as well, and so on; the norms in what is frozen
            become frozen batch norms, as in Detectron2's ResNet.

    Raises:
        ValueError: an unknown body or feature.
    """

    def __init__(self, *, body: str, norm: str, in_channels: int = 3, out_features: list[str], freeze_at: int = 0):
        super().__init__()
        if body not in _BODIES:
            raise ValueError(f"MODEL.VOVNET.CONV_BODY is {body!r}; there are {', '.join(_BODIES)}.")
        spec = _BODIES[body]
        if unknown := [name for name in out_features if name not in ("stem", *_STAGES)]:
            raise ValueError(
                f"{body} has no feature {unknown[0]!r}; MODEL.VOVNET.OUT_FEATURES may name "
                f"{', '.join(('stem', *_STAGES))}."
            )
        self._out_features = list(out_features)
        self._out_feature_channels = dict(zip(("stem", *_STAGES), (spec.stem[-1], *spec.outer)))
        self._out_feature_strides = {"stem": 4, "stage2": 4, "stage3": 8, "stage4": 16, "stage5": 32}

        conv = _separable_conv if spec.depthwise else _conv
        self.stem = _sequence(
            _conv("stem_1", in_channels, spec.stem[0], norm=norm, stride=2)
            + conv("stem_2", spec.stem[0], spec.stem[1], norm=norm)
            + conv("stem_3", spec.stem[1], spec.stem[2], norm=norm, stride=2)
        )
        channels = spec.stem[-1]
        for index, stage in enumerate(_STAGES):
            number = index + 2
            layers: _Layers = []
            if number > 2:
                layers.append(("Pooling", nn.MaxPool2d(kernel_size=3, stride=2, ceil_mode=True)))
            for module in range(1, spec.modules[index] + 1):
                name = f"OSA{number}_{module}"
                aggregation = OneShotAggregation(
                    name=name,
                    in_channels=channels,
                    inner_channels=spec.inner[index],
                    out_channels=spec.outer[index],
                    layers=spec.layers,
                    depthwise=spec.depthwise,
                    residual=module > 1,
                    norm=norm,
                )
                layers.append((name, aggregation))
                channels = spec.outer[index]
            self.add_module(stage, _sequence(layers))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)
        self.freeze(freeze_at)

    def freeze(self, freeze_at: int) -> None:
        """Freezes the first ``freeze_at`` of the stem and the four stages."""
        for name in ("stem", *_STAGES)[: max(freeze_at, 0)]:
            part = getattr(self, name)
            part.requires_grad_(False)
            FrozenBatchNorm2d.convert_frozen_batchnorm(part)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """(N, in_channels, H, W) -> the features asked for, by name."""
        outputs = {}
        for name in ("stem", *_STAGES):
            x = getattr(self, name)(x)
            if name in self._out_features:
                outputs[name] = x
        return outputs


@BACKBONE_REGISTRY.register()
def build_vovnet_backbone(cfg, input_shape: ShapeSpec) -> VoVNet:
    """VoVNet with ``MODEL.VOVNET.{CONV_BODY, NORM, OUT_FEATURES}`` and ``MODEL.BACKBONE.FREEZE_AT``."""
    return VoVNet(
        body=cfg.MODEL.VOVNET.CONV_BODY,
        norm=cfg.MODEL.VOVNET.NORM,
        in_channels=input_shape.channels,
        out_features=cfg.MODEL.VOVNET.OUT_FEATURES,
        freeze_at=cfg.MODEL.BACKBONE.FREEZE_AT,
    )


@BACKBONE_REGISTRY.register()
def build_fcos_vovnet_fpn_backbone(cfg, input_shape: ShapeSpec) -> FPN:
    """FPN over VoVNet; ``MODEL.FPN.IN_FEATURES`` names "stage2" to "stage5"."""
    return build_fcos_fpn(cfg, build_vovnet_backbone(cfg, input_shape))

"""Deep layer aggregation (Yu et al., 2018): stages are trees of residual blocks whose outputs meet in roots.

Six levels; level i has stride 2**i.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ...d2.layers import ShapeSpec, get_norm
from ...d2.modeling import BACKBONE_REGISTRY, FPN, Backbone
from .fpn import build_fcos_fpn


class _Body(NamedTuple):
    """Per level: how many plain convolutions (levels 0, 1) or how deep a tree (2 to 5), and the channels."""

    depths: tuple[int, ...]
    channels: tuple[int, ...]


_BODIES = {"DLA34": _Body(depths=(1, 1, 1, 2, 2, 1), channels=(16, 32, 64, 128, 256, 512))}


def _conv(in_channels: int, out_channels: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, kernel, stride=stride, padding=kernel // 2, bias=False)


def _conv_norm_relu(in_channels: int, out_channels: int, kernel: int, stride: int, norm: str) -> list[nn.Module]:
    conv = _conv(in_channels, out_channels, kernel, stride)
    return [conv, get_norm(norm, out_channels), nn.ReLU(inplace=True)]


class BasicBlock(nn.Module):
    """Two 3x3 convolutions; the tree that holds the block supplies its shortcut."""

    def __init__(self, *, in_channels: int, out_channels: int, stride: int, norm: str):
        super().__init__()
        self.conv1 = _conv(in_channels, out_channels, 3, stride)
        self.bn1 = get_norm(norm, out_channels)
        self.conv2 = _conv(out_channels, out_channels, 3)
        self.bn2 = get_norm(norm, out_channels)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor, shortcut: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += shortcut
        return self.relu(out)


class Root(nn.Module):
    """1x1 convolution over all that meets in an aggregation node."""

    def __init__(self, *, in_channels: int, out_channels: int, norm: str):
        super().__init__()
        self.conv = _conv(in_channels, out_channels, 1)
        self.bn = get_norm(norm, out_channels)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, children: list[Tensor]) -> Tensor:
        return self.relu(self.bn(self.conv(torch.cat(children, dim=1))))


class Tree(nn.Module):
    """A stage, or half of one: two sub-trees in a row (two blocks at depth 1), joined by the deepest root.

    Args:
        depth: 2**depth blocks.
        stride: of the first block.
        inherited_channels: channels of what outer trees pass on to the root.
        keep_input: whether the (pooled) input goes to the root as well.
    """

    def __init__(
        self,
        *,
        depth: int,
        in_channels: int,
        out_channels: int,
        stride: int,
        norm: str,
        inherited_channels: int = 0,
        keep_input: bool = False,
    ):
        super().__init__()
        passed_on = inherited_channels + (in_channels if keep_input else 0)
        first = {"in_channels": in_channels, "out_channels": out_channels, "stride": stride, "norm": norm}
        second = {**first, "in_channels": out_channels, "stride": 1}
        if depth == 1:
            self.tree1 = BasicBlock(**first)
            self.tree2 = BasicBlock(**second)
            self.root = Root(in_channels=2 * out_channels + passed_on, out_channels=out_channels, norm=norm)
        else:
            self.tree1 = Tree(depth=depth - 1, **first)
            self.tree2 = Tree(depth=depth - 1, inherited_channels=passed_on + out_channels, **second)
        self.downsample = nn.MaxPool2d(stride) if stride > 1 else nn.Identity()
        self.project = None
        if in_channels != out_channels:
            self.project = nn.Sequential(_conv(in_channels, out_channels, 1), get_norm(norm, out_channels))
        self.depth = depth
        self.keep_input = keep_input

    def forward(self, x: Tensor, inherited: tuple[Tensor, ...] = ()) -> Tensor:
        """
        Args:
            x: (N, in_channels, H, W).
            inherited: what outer trees pass on, at the resolution of the result.

        Returns:
            (N, out_channels, H / stride, W / stride)
        """
        if self.depth == 1 or self.keep_input:
            pooled = self.downsample(x)
        if self.keep_input:
            inherited = (*inherited, pooled)
        if self.depth == 1:
            x1 = self.tree1(x, pooled if self.project is None else self.project(pooled))
            x2 = self.tree2(x1, x1)
            return self.root([x2, x1, *inherited])
        if self.training and self.project is not None:
            # Published weights hold this projection, but only depth 1 has a shortcut to project. Without a
            # gradient, if only of zero, distributed training would wait for its parameters for ever.
            x = x + 0.0 * sum(parameter.sum() for parameter in self.project.parameters())
        x1 = self.tree1(x)
        return self.tree2(x1, (*inherited, x1))


class DLA(Backbone):
    """DLA without its classifier.

    Args:
        body: "DLA34".
        norm: as for ``get_norm``.
        in_channels: channels of the picture.
        out_features: which of "level0" to "level5" to return; for DLA34 they have 16, 32, 64, 128, 256
            and 512 channels.

    Raises:
        ValueError: an unknown body or feature.
    """

    def __init__(self, *, body: str, norm: str, in_channels: int = 3, out_features: list[str]):
        super().__init__()
        if body not in _BODIES:
            raise ValueError(f"MODEL.DLA.CONV_BODY is {body!r}; there is {', '.join(_BODIES)}.")
        depths, channels = _BODIES[body]
        names = [f"level{i}" for i in range(len(channels))]
        if unknown := [name for name in out_features if name not in names]:
            raise ValueError(f"{body} has no feature {unknown[0]!r}; MODEL.FPN.IN_FEATURES may name {names}.")
        self._out_features = list(out_features)
        self._out_feature_channels = dict(zip(names, channels))
        self._out_feature_strides = {name: 2**i for i, name in enumerate(names)}

        self.base_layer = nn.Sequential(*_conv_norm_relu(in_channels, channels[0], 7, 1, norm))
        for i, name in enumerate(names):
            before = channels[max(i - 1, 0)]
            if i < 2:
                layers = _conv_norm_relu(before, channels[i], 3, 2**i, norm)
                for _ in range(depths[i] - 1):
                    layers += _conv_norm_relu(channels[i], channels[i], 3, 1, norm)
                level = nn.Sequential(*layers)
            else:
                level = Tree(
                    depth=depths[i],
                    in_channels=before,
                    out_channels=channels[i],
                    stride=2,
                    norm=norm,
                    keep_input=i > 2,
                )
            self.add_module(name, level)
        self._level_names = names
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels
                nn.init.normal_(module.weight, std=math.sqrt(2.0 / fan_out))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """(N, in_channels, H, W), H and W multiples of 32 -> the features asked for, by name."""
        outputs = {}
        x = self.base_layer(x)
        for name in self._level_names:
            x = getattr(self, name)(x)
            if name in self._out_features:
                outputs[name] = x
        return outputs


@BACKBONE_REGISTRY.register()
def build_fcos_dla_fpn_backbone(cfg, input_shape: ShapeSpec) -> FPN:
    """FPN over DLA, with ``MODEL.DLA.{CONV_BODY, NORM}``.

    ``MODEL.FPN.IN_FEATURES`` names "level2" to "level5"; ``MODEL.DLA.OUT_FEATURES`` is read by nothing, as in
    AdelaiDet.

    Raises:
        ValueError: ``MODEL.BACKBONE.FREEZE_AT`` above 0: DLA has no frozen form.
    """
    if cfg.MODEL.BACKBONE.FREEZE_AT > 0:
        raise ValueError(
            f"MODEL.BACKBONE.FREEZE_AT is {cfg.MODEL.BACKBONE.FREEZE_AT}, but DLA cannot be frozen; set -1."
        )
    bottom_up = DLA(
        body=cfg.MODEL.DLA.CONV_BODY,
        norm=cfg.MODEL.DLA.NORM,
        in_channels=input_shape.channels,
        out_features=cfg.MODEL.FPN.IN_FEATURES,
    )
    return build_fcos_fpn(cfg, bottom_up)

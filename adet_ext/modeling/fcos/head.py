"""The FCOS head: towers shared over the levels, and the layers on them.

N images, C channels, H_l x W_l the map of level l.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from ...d2.layers import get_norm
from ...layers.deform import ModulatedDeformBlock
from ...layers.group_norm_relu import group_norm_relu, has_kernel

__all__ = ["FCOSHead", "HeadOutput", "Tower", "conv_tower", "rectify", "run_tower"]


class HeadOutput(NamedTuple):
    """The head's outputs, one entry per level."""

    logits: list[torch.Tensor]  # (N, classes, H_l, W_l)
    distances: list[torch.Tensor]  # (N, 4, H_l, W_l): l, t, r, b in units of the stride
    quality: list[torch.Tensor]  # (N, 1, H_l, W_l): logits of center-ness or of IoU
    box_tower: list[torch.Tensor]  # (N, C, H_l, W_l)
    cls_tower: Sequence[torch.Tensor] = ()  # (N, C, H_l, W_l)


class Scale(nn.Module):
    """One learned factor."""

    def __init__(self, init_value: float = 1.0):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor([init_value]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.scale


class PerLevelNorm(nn.ModuleList):
    """A normalization layer for each level, as their batch statistics differ."""

    def __init__(self, make_norm: Callable[[], nn.Module], num_levels: int):
        super().__init__([make_norm() for _ in range(num_levels)])

    def forward(self, x: torch.Tensor, level: int) -> torch.Tensor:
        return self[level](x)


class Tower(nn.Sequential):
    """A sequence of layers that gets the level it works on."""

    def forward(self, x: torch.Tensor, level: int) -> torch.Tensor:
        for layer in self:
            x = layer(x, level) if isinstance(layer, PerLevelNorm) else layer(x)
        return x

    def over(self, levels: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Return :meth:`forward` of all levels, (N, C, H_l, W_l) each, layer by layer."""
        levels, layers = list(levels), list(self)
        pairs = iter(zip(layers, [*layers[1:], None]))
        for layer, following in pairs:
            if _normalizes(layer, levels) and _rectifies(following):
                levels = group_norm_relu(levels, layer.weight, layer.bias, groups=layer.num_groups, eps=layer.eps)
                next(pairs)
            elif _rectifies(layer):
                levels = rectify(levels)
            else:
                each = isinstance(layer, PerLevelNorm)
                levels = [layer(x, i) if each else layer(x) for i, x in enumerate(levels)]
        return levels


def run_tower(tower: nn.Module, levels: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Return ``tower(x, level)`` for each level's x."""
    if isinstance(tower, Tower) and not _has_hooks(tower):
        return tower.over(levels)
    return [tower(x, i) for i, x in enumerate(levels)]


def _normalizes(layer: nn.Module, levels: Sequence[torch.Tensor]) -> bool:
    """Return whether a layer is a group norm that all levels pass in one launch, with the ReLU after it."""
    return type(layer) is nn.GroupNorm and not _has_hooks(layer) and has_kernel(levels, layer.weight, layer.bias)


def _rectifies(layer: nn.Module | None) -> bool:
    return type(layer) is nn.ReLU and layer.inplace and not _has_hooks(layer)


def _has_hooks(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)


def rectify(maps: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Return the ReLU of maps, in their memory. In inference this is one launch on a GPU, however many they are."""
    maps = list(maps)
    if torch.is_grad_enabled() or torch.compiler.is_compiling() or torch.jit.is_tracing():
        return [F.relu_(x) for x in maps]
    torch._foreach_clamp_min_(maps, 0)
    return maps


def _norm_layers(norm: str, channels: int, num_levels: int, key: str) -> list[nn.Module]:
    if norm in ("", "none"):
        return []
    if norm in ("GN", "NaiveGN"):
        return [nn.GroupNorm(32, channels)]
    if norm in ("BN", "SyncBN", "naiveSyncBN"):
        return [PerLevelNorm(lambda: get_norm(norm, channels), num_levels)]
    raise ValueError(f"{key} must be GN, NaiveGN, BN, SyncBN, naiveSyncBN or none; got {norm!r}")


def conv_tower(
    channels: int, num_convs: int, *, norm: str, num_levels: int, deformable: bool = False, key: str = "MODEL.FCOS.NORM"
) -> Tower:
    """Return ``num_convs`` times 3x3 convolution, norm, ReLU, of (N, C, H_l, W_l) maps.

    Args:
        channels: C.
        norm: "GN", "NaiveGN", "BN", "SyncBN", "naiveSyncBN" (batch norms: one per level) or "none".
        deformable: the last convolution is a modulated deformable one.
        key: the config key that ``norm`` comes from, for the error.
    """
    layers: list[nn.Module] = []
    for i in range(num_convs):
        if deformable and i == num_convs - 1:
            layers.append(ModulatedDeformBlock(channels, channels))
        else:
            layers.append(nn.Conv2d(channels, channels, 3, padding=1))
        layers += _norm_layers(norm, channels, num_levels, key)
        layers.append(nn.ReLU(inplace=True))
    return Tower(*layers)


class FCOSHead(nn.Module):
    """Classification, box distances and box quality at every location of every level."""

    def __init__(
        self,
        *,
        in_channels: int,
        num_levels: int,
        num_classes: int,
        num_cls_convs: int = 4,
        num_box_convs: int = 4,
        num_share_convs: int = 0,
        norm: str = "GN",
        use_deformable: bool = False,
        use_scale: bool = True,
        quality_on_box_tower: bool = True,
        prior_prob: float = 0.01,
        exponential_strides: Sequence[int] = (),
    ):
        """
        Args:
            in_channels: C, the same on every level.
            num_cls_convs, num_box_convs, num_share_convs: 3x3 convolutions of the classification tower, the box
                tower, and of the part before both.
            norm: "GN", "NaiveGN", "BN", "SyncBN", "naiveSyncBN" or "none".
            use_deformable: the last convolution of both towers is a modulated deformable one.
            use_scale: a learned factor per level on the distances.
            quality_on_box_tower: whether the quality branch reads the box tower or the classification tower.
            prior_prob: initial foreground probability.
            exponential_strides: the strides of the levels where distances are exponentials, in pixels, as in the first
                FCOS. By default they are rectified, in units of the stride.
        """
        super().__init__()
        self.exponential_strides = list(exponential_strides)
        self.quality_on_box_tower = quality_on_box_tower

        def tower(num_convs: int, deformable: bool) -> Tower:
            return conv_tower(in_channels, num_convs, norm=norm, num_levels=num_levels, deformable=deformable)

        self.cls_tower = tower(num_cls_convs, use_deformable)
        self.bbox_tower = tower(num_box_convs, use_deformable)
        self.share_tower = tower(num_share_convs, False)
        self.cls_logits = nn.Conv2d(in_channels, num_classes, 3, padding=1)
        self.bbox_pred = nn.Conv2d(in_channels, 4, 3, padding=1)
        self.ctrness = nn.Conv2d(in_channels, 1, 3, padding=1)
        self.scales = nn.ModuleList([Scale() for _ in range(num_levels)]) if use_scale else None

        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.01)
                nn.init.zeros_(module.bias)
        nn.init.constant_(self.cls_logits.bias, -math.log((1 - prior_prob) / prior_prob))

    def forward(self, features: Sequence[torch.Tensor]) -> HeadOutput:
        """Args: features: (N, C, H_l, W_l) for each level. Returns: see :class:`HeadOutput`."""
        shared = run_tower(self.share_tower, features)
        cls_tower, box_tower = run_tower(self.cls_tower, shared), run_tower(self.bbox_tower, shared)
        distances = [self.bbox_pred(x) for x in box_tower]
        if self.scales is not None:
            distances = [scale(x) for scale, x in zip(self.scales, distances)]
        return HeadOutput(
            logits=[self.cls_logits(x) for x in cls_tower],
            distances=self._decode(distances),
            quality=[self.ctrness(x) for x in (box_tower if self.quality_on_box_tower else cls_tower)],
            box_tower=box_tower,
            cls_tower=cls_tower,
        )

    def _decode(self, distances: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        if self.exponential_strides:
            return [x.exp() / stride for x, stride in zip(distances, self.exponential_strides)]
        return rectify(distances)

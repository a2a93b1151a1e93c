"""The searched backbone of 40 blocks, alone and below a feature pyramid."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from adet_ext.d2.config import CfgNode, configurable
from adet_ext.d2.layers import ShapeSpec, get_norm
from adet_ext.d2.modeling import BACKBONE_REGISTRY, FPN, Backbone, LastLevelMaxPool

from .architecture import BLOCKS, load_architecture
from .blocks import ShuffleBlock
from .choices import Choices

__all__ = ["SUPERNET", "ShuffleBackbone", "build_auto_panoptic_fpn_backbone", "check_stages", "input_channels"]

# The value of MODEL.AUTO_PANOPTIC.ARCHITECTURE that keeps all choices.
SUPERNET = "supernet"


def check_stages(channels: Sequence[int], repeats: Sequence[int]) -> None:
    """Raise ValueError where the keys do not describe a stem and four stages."""
    if len(channels) != 5 or any(type(c) is not int or c < 2 or c % 2 for c in channels):
        raise ValueError(
            f"MODEL.AUTO_PANOPTIC.CHANNELS must be five even numbers, of the stem and four stages; got {list(channels)}"
        )
    if any(a >= b for a, b in zip(channels, channels[1:])):
        raise ValueError(f"MODEL.AUTO_PANOPTIC.CHANNELS must grow from stage to stage; got {list(channels)}")
    if len(repeats) != 4 or any(type(r) is not int or r < 1 for r in repeats):
        raise ValueError(
            f"MODEL.AUTO_PANOPTIC.REPEATS must be four whole numbers, the blocks of each stage; got {list(repeats)}"
        )


def input_channels(channels: Sequence[int], repeats: Sequence[int]) -> list[tuple[int, int, int]]:
    """Return the channels of its input, those of its output, and the stride of each block."""
    found = []
    for before, now, repeat in zip(channels, channels[1:], repeats):
        found += [(before, now, 2), *[(now, now, 1)] * (repeat - 1)]
    return found


@BACKBONE_REGISTRY.register()
class ShuffleBackbone(Backbone):
    """A stem and four stages of searched blocks: features ``res2`` to ``res5`` at strides 4 to 32.

    ``blocks`` are the searched layers.
    """

    @configurable
    def __init__(self, *, choices: Sequence[Sequence[str]], channels: Sequence[int], repeats: Sequence[int], norm: str):
        """
        Args:
            choices: the candidates of each block.
            channels: of the stem and the stages.
            repeats: blocks of each stage.
        """
        super().__init__()
        check_stages(channels, repeats)
        shapes = input_channels(channels, repeats)
        if len(choices) != len(shapes):
            raise ValueError(
                f"an architecture must have a choice for each of the {len(shapes)} blocks of "
                f"MODEL.AUTO_PANOPTIC.REPEATS {list(repeats)}; got {len(choices)}"
            )

        def make_norm(width: int) -> nn.Module:
            return get_norm(norm, width)

        self.stem = nn.Sequential(nn.Conv2d(3, channels[0], 3, 2, 1), make_norm(channels[0]), nn.ReLU())
        self.blocks = nn.ModuleList(
            [
                Choices(names, lambda name, shape=shape: ShuffleBlock(*shape, name, make_norm))
                for names, shape in zip(choices, shapes)
            ]
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        self._last = [sum(repeats[: i + 1]) - 1 for i in range(4)]
        self._out_features = [f"res{i}" for i in range(2, 6)]
        self._out_feature_channels = dict(zip(self._out_features, channels[1:]))
        self._out_feature_strides = {name: 4 * 2**i for i, name in enumerate(self._out_features)}

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec | None = None) -> dict[str, Any]:
        node = cfg.MODEL.AUTO_PANOPTIC
        if node.ARCHITECTURE == SUPERNET:
            choices = [BLOCKS] * sum(node.REPEATS)
        else:
            choices = [(name,) for name in load_architecture(node.ARCHITECTURE).backbone]
        return {"choices": choices, "channels": node.CHANNELS, "repeats": node.REPEATS, "norm": node.NORM}

    @property
    def size_divisibility(self) -> int:
        return 32

    @property
    def padding_constraints(self) -> dict[str, int]:
        """No further demand on the size; Detectron2's models ask."""
        return {}

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Map images (N, 3, H, W) to features at strides 4, 8, 16 and 32 by name."""
        x, features = self.stem(images), []
        for i, block in enumerate(self.blocks):
            x = block(x)
            if i in self._last:
                features.append(x)
        return dict(zip(self._out_features, features))


@BACKBONE_REGISTRY.register()
def build_auto_panoptic_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """Return the searched backbone with a pyramid from P2 to P6."""
    return FPN(
        bottom_up=ShuffleBackbone(cfg, input_shape),
        in_features=cfg.MODEL.FPN.IN_FEATURES,
        out_channels=cfg.MODEL.FPN.OUT_CHANNELS,
        norm=cfg.MODEL.FPN.NORM,
        top_block=LastLevelMaxPool(),
        fuse_type=cfg.MODEL.FPN.FUSE_TYPE,
    )

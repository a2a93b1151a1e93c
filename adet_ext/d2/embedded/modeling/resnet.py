"""ResNet and ResNeXt, optionally with deformable convolutions.

N images, C channels, H and W height and width.
"""

import math
from collections.abc import Sequence

import fvcore.nn.weight_init as weight_init
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import CfgNode
from ..layers import CNNBlockBase, Conv2d, DeformConv, ModulatedDeformConv, ShapeSpec, get_norm
from .build import BACKBONE_REGISTRY, Backbone

ResNetBlockBase = CNNBlockBase

_BLOCKS_PER_STAGE = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}


def _conv_norm(in_channels: int, out_channels: int, kernel_size: int, norm: str, **kwargs) -> Conv2d:
    return Conv2d(in_channels, out_channels, kernel_size, bias=False, norm=get_norm(norm, out_channels), **kwargs)


class _Residual(CNNBlockBase):
    """A block that adds a branch to its input, or to a projection of it if the channels change."""

    def __init__(self, in_channels: int, out_channels: int, *, stride: int, norm: str):
        super().__init__(in_channels, out_channels, stride)
        self.shortcut = None
        if in_channels != out_channels:
            self.shortcut = _conv_norm(in_channels, out_channels, 1, norm, stride=stride)

    def _fill(self, *branch: nn.Module) -> None:
        # The shortcut is last, so that a seed gives the same weights as in Detectron2.
        for layer in (*branch, self.shortcut):
            if layer is not None:
                weight_init.c2_msra_fill(layer)

    def branch(self, x: Tensor) -> Tensor:
        raise NotImplementedError(f"{type(self).__name__} must define branch")

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, ``out_channels``, H / stride, W / stride)."""
        out = self.branch(x)
        out += x if self.shortcut is None else self.shortcut(x)
        return F.relu_(out)


class BasicBlock(_Residual):
    """Two 3x3 convolutions: the block of ResNet-18 and -34."""

    def __init__(self, in_channels: int, out_channels: int, *, stride: int = 1, norm: str = "BN"):
        super().__init__(in_channels, out_channels, stride=stride, norm=norm)
        self.conv1 = _conv_norm(in_channels, out_channels, 3, norm, stride=stride, padding=1)
        self.conv2 = _conv_norm(out_channels, out_channels, 3, norm, padding=1)
        self._fill(self.conv1, self.conv2)

    def branch(self, x: Tensor) -> Tensor:
        return self.conv2(F.relu_(self.conv1(x)))


class BottleneckBlock(_Residual):
    """1x1, 3x3 and 1x1 convolutions: the block of ResNet-50 and deeper.

    ``bottleneck_channels`` are those of the 3x3 convolution, which has ``num_groups`` groups and the given
    ``dilation``. It also has the stride, or the first one has it with ``stride_in_1x1``. ``middle`` is for subclasses
    with another 3x3 convolution.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        bottleneck_channels: int,
        stride: int = 1,
        num_groups: int = 1,
        norm: str = "BN",
        stride_in_1x1: bool = False,
        dilation: int = 1,
        **middle,
    ):
        super().__init__(in_channels, out_channels, stride=stride, norm=norm)
        first, second = (stride, 1) if stride_in_1x1 else (1, stride)
        self.conv1 = _conv_norm(in_channels, bottleneck_channels, 1, norm, stride=first)
        geometry = {"stride": second, "padding": dilation, "dilation": dilation}
        self._make_middle(bottleneck_channels, norm, num_groups, geometry, **middle)
        self.conv3 = _conv_norm(bottleneck_channels, out_channels, 1, norm)
        self._fill(self.conv1, self.conv2, self.conv3)

    def _make_middle(self, channels: int, norm: str, groups: int, geometry: dict[str, int]) -> None:
        self.conv2 = _conv_norm(channels, channels, 3, norm, groups=groups, **geometry)

    def _middle(self, x: Tensor) -> Tensor:
        return self.conv2(x)

    def branch(self, x: Tensor) -> Tensor:
        x = F.relu_(self.conv1(x))
        x = F.relu_(self._middle(x))
        return self.conv3(x)


class DeformBottleneckBlock(BottleneckBlock):
    """A bottleneck with a deformable 3x3 convolution, modulated (version 2) with ``deform_modulated``.

    Arguments are those of :class:`BottleneckBlock`, ``deform_modulated`` and ``deform_num_groups``. A convolution
    ``conv2_offset`` gives offsets and mask. It is initialized with zeros, which is an ordinary convolution.
    """

    def _make_middle(
        self,
        channels: int,
        norm: str,
        groups: int,
        geometry: dict[str, int],
        deform_modulated: bool = False,
        deform_num_groups: int = 1,
    ) -> None:
        self.deform_modulated = deform_modulated
        numbers = (3 if deform_modulated else 2) * 9 * deform_num_groups
        self.conv2_offset = Conv2d(channels, numbers, 3, **geometry)
        nn.init.zeros_(self.conv2_offset.weight)
        nn.init.zeros_(self.conv2_offset.bias)
        convolution = ModulatedDeformConv if deform_modulated else DeformConv
        self.conv2 = convolution(
            channels, channels, 3, bias=False, groups=groups, norm=get_norm(norm, channels), **geometry
        )

    def _middle(self, x: Tensor) -> Tensor:
        offset = self.conv2_offset(x)
        if not self.deform_modulated:
            return self.conv2(x, offset)
        # The last third of the channels weights the samples.
        split = offset.shape[1] // 3 * 2
        return self.conv2(x, offset[:, :split], offset[:, split:].sigmoid())


class BasicStem(CNNBlockBase):
    """7x7 convolution and pooling, each of stride 2."""

    def __init__(self, in_channels: int = 3, out_channels: int = 64, norm: str = "BN"):
        super().__init__(in_channels, out_channels, 4)
        self.conv1 = _conv_norm(in_channels, out_channels, 7, norm, stride=2, padding=3)
        weight_init.c2_msra_fill(self.conv1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, ``out_channels``, H / 4, W / 4)."""
        return F.max_pool2d(F.relu_(self.conv1(x)), kernel_size=3, stride=2, padding=1)


class ResNet(Backbone):
    """A stem and stages "res2", "res3", ... of blocks.

    ``out_features`` names what ``forward`` returns ("stem", stages; default: the last). Stages after the last of
    these are left out. ``freeze_at`` goes to :meth:`freeze`.
    """

    def __init__(
        self,
        stem: CNNBlockBase,
        stages: Sequence[Sequence[CNNBlockBase]],
        *,
        out_features: Sequence[str] | None = None,
        freeze_at: int = 0,
    ):
        super().__init__()
        self.stem = stem
        names = [f"res{index}" for index in range(2, 2 + len(stages))]
        self._out_features = [names[-1]] if out_features is None else list(out_features)
        # Unused stages would take memory, and stop distributed training, which waits for all gradients.
        needed = [names.index(name) + 1 for name in self._out_features if name in names]
        self.stage_names = tuple(names[: max(needed, default=0)])
        self.stages = []
        stride, channels = stem.stride, stem.out_channels
        self._out_feature_strides = {"stem": stride}
        self._out_feature_channels = {"stem": channels}
        for name, blocks in zip(self.stage_names, stages):
            if not blocks or not all(isinstance(block, CNNBlockBase) for block in blocks):
                raise AssertionError(f"{name} must be a non-empty list of CNNBlockBase")
            stage = nn.Sequential(*blocks)
            self.add_module(name, stage)
            self.stages.append(stage)
            stride *= math.prod(block.stride for block in blocks)
            self._out_feature_strides[name] = stride
            self._out_feature_channels[name] = blocks[-1].out_channels
        for name in self._out_features:
            if name not in self._out_feature_strides:
                known = list(self._out_feature_strides)
                raise AssertionError(f"there is no feature '{name}' (MODEL.RESNETS.OUT_FEATURES) in {known}")
        self.freeze(freeze_at)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Map images (N, 3, H, W) to feature maps (N, C, H / stride, W / stride) by name."""
        if x.dim() != 4:
            raise AssertionError(f"the input of a ResNet must be N x C x H x W; got {tuple(x.shape)}")
        x = self.stem(x)
        outputs = {"stem": x} if "stem" in self._out_features else {}
        for name, stage in zip(self.stage_names, self.stages, strict=True):
            x = stage(x)
            if name in self._out_features:
                outputs[name] = x
        return outputs

    def freeze(self, freeze_at: int = 0) -> "ResNet":
        """Freeze the stem (1), the stem and res2 (2), and so on. 0 and below freeze nothing."""
        for index, part in enumerate([[self.stem], *self.stages], start=1):
            if freeze_at >= index:
                for block in part:
                    block.freeze()
        return self

    @staticmethod
    def make_stage(
        block_class: type[CNNBlockBase], num_blocks: int, *, in_channels: int, out_channels: int, **kwargs
    ) -> list[CNNBlockBase]:
        """Return the blocks of one stage. A ``name_per_block`` list has the ``name`` of each; others are shared."""
        blocks = []
        for index in range(num_blocks):
            own = {}
            for key, value in kwargs.items():
                name = key.removesuffix("_per_block")
                if name == key:
                    own[key] = value
                    continue
                if len(value) != num_blocks or name in kwargs:
                    raise AssertionError(f"{key} must have {num_blocks} values, and {name} must not be given")
                own[name] = value[index]
            blocks.append(block_class(in_channels=in_channels, out_channels=out_channels, **own))
            in_channels = out_channels
        return blocks


@BACKBONE_REGISTRY.register()
def build_resnet_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> ResNet:
    """Return the ResNet of ``MODEL.RESNETS`` and ``MODEL.BACKBONE.FREEZE_AT``."""
    node = cfg.MODEL.RESNETS
    stem = BasicStem(in_channels=input_shape.channels, out_channels=node.STEM_OUT_CHANNELS, norm=node.NORM)
    if node.DEPTH not in _BLOCKS_PER_STAGE:
        raise KeyError(f"MODEL.RESNETS.DEPTH must be one of {', '.join(map(str, _BLOCKS_PER_STAGE))}; got {node.DEPTH}")
    if node.RES5_DILATION not in (1, 2):
        raise AssertionError(f"MODEL.RESNETS.RES5_DILATION must be 1 or 2; got {node.RES5_DILATION}")
    if len(node.DEFORM_ON_PER_STAGE) != 4:
        raise AssertionError(
            f"MODEL.RESNETS.DEFORM_ON_PER_STAGE must have 4 values, one a stage; got {list(node.DEFORM_ON_PER_STAGE)}"
        )
    basic = node.DEPTH < 50
    plain = {"RES2_OUT_CHANNELS": 64, "DEFORM_ON_PER_STAGE": [False] * 4, "RES5_DILATION": 1, "NUM_GROUPS": 1}
    for key, value in plain.items() if basic else ():
        if node[key] != (type(node[key])(value) if isinstance(value, list) else value):
            raise AssertionError(f"MODEL.RESNETS.{key} must be {value} with DEPTH {node.DEPTH}; got {node[key]}")

    stages = []
    in_channels, out_channels = node.STEM_OUT_CHANNELS, node.RES2_OUT_CHANNELS
    bottleneck_channels = node.NUM_GROUPS * node.WIDTH_PER_GROUP
    for index, num_blocks in enumerate(_BLOCKS_PER_STAGE[node.DEPTH]):
        dilation = node.RES5_DILATION if index == 3 else 1
        stride = 1 if index == 0 or dilation == 2 else 2
        kwargs = {"stride_per_block": [stride] + [1] * (num_blocks - 1), "norm": node.NORM}
        block_class = BasicBlock if basic else BottleneckBlock
        if not basic:
            kwargs["bottleneck_channels"] = bottleneck_channels
            kwargs["stride_in_1x1"] = node.STRIDE_IN_1X1
            kwargs["dilation"] = dilation
            kwargs["num_groups"] = node.NUM_GROUPS
            if node.DEFORM_ON_PER_STAGE[index]:
                block_class = DeformBottleneckBlock
                kwargs["deform_modulated"] = node.DEFORM_MODULATED
                kwargs["deform_num_groups"] = node.DEFORM_NUM_GROUPS
        stages.append(
            ResNet.make_stage(block_class, num_blocks, in_channels=in_channels, out_channels=out_channels, **kwargs)
        )
        in_channels = out_channels
        out_channels *= 2
        bottleneck_channels *= 2
    return ResNet(stem, stages, out_features=node.OUT_FEATURES, freeze_at=cfg.MODEL.BACKBONE.FREEZE_AT)

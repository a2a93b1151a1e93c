"""The FPN that a genotype describes (thesis 7.3.2), over any body with features at strides 4 to 32.

N images of H x W pixels, C channels inside the FPN, F channels of its levels.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from adet_ext.d2.layers import ShapeSpec, get_norm
from adet_ext.d2.modeling import BACKBONE_REGISTRY, Backbone, build_resnet_backbone
from adet_ext.d2.utils import comm
from adet_ext.errors import UserError
from adet_ext.modeling.backbone import LastLevelP6P7, build_mnv2_backbone

from .genotype import BODY_STRIDES, FPNGenotype, load_genotype
from .operations import build_aggregation, build_operation, resize

__all__ = ["Cell", "GenotypeFPN", "NASFPN", "build_body", "build_nas_fpn_backbone", "load_fpn_genotype"]

_LEVELS = ("p3", "p4", "p5", "p6", "p7")


class Cell(nn.Module):
    """A basic block: an operation on each of two features, then their merge."""

    def __init__(self, first: nn.Module, second: nn.Module, merge: nn.Module):
        super().__init__()
        self.first, self.second, self.merge = first, second, merge

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return self.merge(self.first(x), self.second(y))


class GenotypeFPN(nn.Module):
    """From features of the body to P3, ..., P7, without the body.

    Every feature passes an adapter (1x1 convolution to C channels, norm, ReLU), also one that no block takes: Table 7.2
    counts them all. Blocks then work at C channels; those that no block takes give F channels.
    """

    def __init__(
        self, *, genotype: FPNGenotype, in_channels: Sequence[int], width: int, out_channels: int, norm: str = "BN"
    ):
        """
        Args:
            in_channels: of the features at strides 4, 8, 16 and 32.
            width: C.
            out_channels: F, C or a multiple of it.
            norm: a name as in the configs' norms.

        Raises:
            UserError: the genotype has fewer than three outputs, or the widths do not fit.
        """
        super().__init__()
        _check(genotype)
        if width < 1 or out_channels < 1 or out_channels % width:
            raise UserError(
                "MODEL.FPN.OUT_CHANNELS must be MODEL.NAS_FCOS.WIDTH or a multiple of it; got "
                f"{out_channels} and {width}. Set both"
            )

        def make_norm(channels: int) -> nn.Module:
            return get_norm(norm, channels)

        self.genotype = genotype
        self.adapters = nn.ModuleList(
            nn.Sequential(nn.Conv2d(c, width, 1, bias=False), make_norm(width), nn.ReLU(inplace=True))
            for c in in_channels
        )
        self.cells = nn.ModuleList()
        for t, block in enumerate(genotype.blocks):
            leaf = len(BODY_STRIDES) + t in genotype.unsampled
            operations = [build_operation(name, width, make_norm) for name in block.operations]
            merge = build_aggregation(block.aggregation, width, out_channels if leaf else width, make_norm)
            self.cells.append(Cell(*operations, merge))
        self.top_block = LastLevelP6P7(in_channels=out_channels, out_channels=out_channels)

    def forward(self, features: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
        """Features of the body, (N, C_i, H / s, W / s) for s = 4, 8, 16 and 32, to levels (N, F, ...) by name.

        P3 to P5 have the sizes of the features at their strides.
        """
        pool = [adapter(x) for adapter, x in zip(self.adapters, features)]
        for block, cell in zip(self.genotype.blocks, self.cells):
            pool.append(cell(*(pool[number] for number in block.inputs)))
        levels = []
        for number, feature in zip(self.genotype.outputs, features[:0:-1]):  # P5, P4, P3
            merged = pool[number]
            for other in self.genotype.dangling:
                merged = merged + resize(pool[other], pool[number].shape[-2:])  # equation 7.1
            levels.insert(0, resize(merged, feature.shape[-2:]))
        if self.training and comm.get_world_size() > 1:
            levels[-1] = self._reach_all(levels[-1], pool)
        return dict(zip(_LEVELS, [*levels, *self.top_block(levels[-1])]))

    def _reach_all(self, level: torch.Tensor, pool: Sequence[torch.Tensor]) -> torch.Tensor:
        """Add the adapters that no block takes, times zero: distributed training waits for every gradient."""
        taken = {number for block in self.genotype.blocks for number in block.inputs}
        for number in range(len(self.adapters)):
            if number not in taken:
                level = level + 0 * pool[number].mean()
        return level


class NASFPN(Backbone):
    """A body and the FPN of a genotype: images (N, 3, H, W) to P3, ..., P7."""

    def __init__(self, *, bottom_up: Backbone, in_features: Sequence[str], **fpn):
        """
        Args:
            in_features: names of the body's features, finest first, at strides 4, 8, 16 and 32.
            fpn: what :class:`GenotypeFPN` takes, without ``in_channels``.

        Raises:
            UserError: the body does not give these features at these strides; or as :class:`GenotypeFPN` does.
        """
        super().__init__()
        shapes = bottom_up.output_shape()
        strides = tuple(shapes[name].stride if name in shapes else 0 for name in in_features)
        if strides != BODY_STRIDES:
            given = ", ".join(f"{name} (stride {shape.stride})" for name, shape in shapes.items())
            raise UserError(
                f"MODEL.FPN.IN_FEATURES must name features at strides 4, 8, 16 and 32; got {list(in_features)}, and "
                f"the body gives {given}. Set MODEL.RESNETS.OUT_FEATURES and MODEL.FPN.IN_FEATURES"
            )
        self.bottom_up = bottom_up
        self.in_features = list(in_features)
        self.fpn = GenotypeFPN(in_channels=[shapes[name].channels for name in in_features], **fpn)
        self._out_features = list(_LEVELS)
        self._out_feature_strides = {name: 2**i for i, name in enumerate(_LEVELS, start=3)}
        self._out_feature_channels = dict.fromkeys(_LEVELS, fpn["out_channels"])

    @property
    def size_divisibility(self) -> int:
        return BODY_STRIDES[-1]

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return self.pyramid(self.bottom_up(x))

    def pyramid(self, body: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return the levels from the body's features by name, such as features kept from an earlier run."""
        return self.fpn([body[name] for name in self.in_features])


def build_body(cfg, input_shape: ShapeSpec) -> Backbone:
    """Return the ResNet or, with MODEL.MOBILENET, the MobileNetV2 that the config describes."""
    return (build_mnv2_backbone if cfg.MODEL.MOBILENET else build_resnet_backbone)(cfg, input_shape)


def load_fpn_genotype(name: str) -> FPNGenotype:
    """Return the FPN genotype that MODEL.NAS_FCOS.FPN names.

    Raises:
        UserError: it names none, or one that does not give P3, P4 and P5.
    """
    genotype = load_genotype(name)
    if not isinstance(genotype, FPNGenotype):
        raise UserError(f"MODEL.NAS_FCOS.FPN must name the genotype of an FPN; got {name}, which is a head's")
    _check(genotype)
    return genotype


def _check(genotype: FPNGenotype) -> None:
    if reason := genotype.why_rejected():
        raise UserError(f"MODEL.NAS_FCOS.FPN: {reason}. Choose another genotype")


@BACKBONE_REGISTRY.register()
def build_nas_fpn_backbone(cfg, input_shape: ShapeSpec) -> NASFPN:
    """The FPN of MODEL.NAS_FCOS.FPN over a ResNet or MobileNetV2."""
    node = cfg.MODEL.NAS_FCOS
    return NASFPN(
        genotype=load_fpn_genotype(node.FPN),
        bottom_up=build_body(cfg, input_shape),
        in_features=cfg.MODEL.FPN.IN_FEATURES,
        width=node.WIDTH,
        out_channels=cfg.MODEL.FPN.OUT_CHANNELS,
        norm=node.NORM,
    )

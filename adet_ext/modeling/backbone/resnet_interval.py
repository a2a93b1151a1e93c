"""ResNet in which only every k-th block of a deformable stage is deformable (BlendMask's "dcni3": k = 3)."""

from ...d2.layers import CNNBlockBase, ShapeSpec
from ...d2.modeling import BACKBONE_REGISTRY, BasicStem, BottleneckBlock, DeformBottleneckBlock, ResNet

_BLOCKS_PER_STAGE = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
_STAGES = ("res2", "res3", "res4", "res5")


def make_interval_stage(
    *,
    num_blocks: int,
    deform_interval: int,
    deform_kwargs: dict,
    first_stride: int,
    in_channels: int,
    out_channels: int,
    **block_kwargs,
) -> list[CNNBlockBase]:
    """Bottleneck blocks of one stage; blocks 0, k, 2k, ... with k = ``deform_interval`` are deformable.

    Args:
        deform_interval: 0 for a stage without deformable blocks.
        deform_kwargs: what only deformable blocks take (``deform_modulated``, ``deform_num_groups``).
        block_kwargs: what every block takes.
    """
    blocks = []
    for index in range(num_blocks):
        deformable = deform_interval > 0 and index % deform_interval == 0
        block_class = DeformBottleneckBlock if deformable else BottleneckBlock
        blocks.append(
            block_class(
                in_channels=in_channels if index == 0 else out_channels,
                out_channels=out_channels,
                stride=first_stride if index == 0 else 1,
                **block_kwargs,
                **(deform_kwargs if deformable else {}),
            )
        )
    return blocks


@BACKBONE_REGISTRY.register()
def build_resnet_interval_backbone(cfg, input_shape: ShapeSpec) -> ResNet:
    """ResNet-50, -101 or -152 with ``MODEL.RESNETS.DEFORM_INTERVAL``; all other keys as for a plain ResNet.

    Parameter names are those of Detectron2's ResNet. Stages after the last of
    ``MODEL.RESNETS.OUT_FEATURES`` are not built.

    Raises:
        ValueError: a depth without bottleneck blocks, an interval below 1, a dilation other than 1 or 2.
    """
    resnets = cfg.MODEL.RESNETS
    interval = resnets.DEFORM_INTERVAL
    if resnets.DEPTH not in _BLOCKS_PER_STAGE:
        raise ValueError(
            f"MODEL.RESNETS.DEPTH must be 50, 101 or 152 with DEFORM_INTERVAL {interval}, for bottleneck blocks; got "
            f"{resnets.DEPTH}. Choose one of these, or set DEFORM_INTERVAL to 1"
        )
    if interval < 1:
        raise ValueError(f"MODEL.RESNETS.DEFORM_INTERVAL must be 1 (every block) or more; got {interval}. Correct it")
    if resnets.RES5_DILATION not in (1, 2):
        raise ValueError(f"MODEL.RESNETS.RES5_DILATION must be 1 or 2; got {resnets.RES5_DILATION}. Correct it")

    stem = BasicStem(in_channels=input_shape.channels, out_channels=resnets.STEM_OUT_CHANNELS, norm=resnets.NORM)
    in_channels, out_channels = resnets.STEM_OUT_CHANNELS, resnets.RES2_OUT_CHANNELS
    bottleneck_channels = resnets.NUM_GROUPS * resnets.WIDTH_PER_GROUP
    stages = []
    num_stages = max((_STAGES.index(f) + 1 for f in resnets.OUT_FEATURES if f in _STAGES), default=0)
    for stage, num_blocks in enumerate(_BLOCKS_PER_STAGE[resnets.DEPTH][:num_stages]):
        dilation = resnets.RES5_DILATION if _STAGES[stage] == "res5" else 1
        stages.append(
            make_interval_stage(
                num_blocks=num_blocks,
                deform_interval=interval if resnets.DEFORM_ON_PER_STAGE[stage] else 0,
                deform_kwargs={
                    "deform_modulated": resnets.DEFORM_MODULATED,
                    "deform_num_groups": resnets.DEFORM_NUM_GROUPS,
                },
                first_stride=1 if stage == 0 or dilation == 2 else 2,
                in_channels=in_channels,
                out_channels=out_channels,
                bottleneck_channels=bottleneck_channels,
                num_groups=resnets.NUM_GROUPS,
                norm=resnets.NORM,
                stride_in_1x1=resnets.STRIDE_IN_1X1,
                dilation=dilation,
            )
        )
        in_channels = out_channels
        out_channels *= 2
        bottleneck_channels *= 2
    return ResNet(stem, stages, out_features=resnets.OUT_FEATURES, freeze_at=cfg.MODEL.BACKBONE.FREEZE_AT)

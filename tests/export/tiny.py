"""Models of every family on a backbone of four convolutions: graphs small enough to export in a second or two."""

import torch
from torch import nn

from adet_ext import get_cfg
from adet_ext.d2.layers import Conv2d, ShapeSpec
from adet_ext.d2.modeling import BACKBONE_REGISTRY, Backbone, build_model

SIZE = (64, 96)
CHANNELS = 32


class TinyBackbone(Backbone):
    """Levels p2 to p5, each half the size of the one before."""

    def __init__(self):
        super().__init__()
        self.convs = nn.ModuleList(
            Conv2d(CHANNELS if i else 3, CHANNELS, 3 if i else 5, stride=2 if i else 4, padding=1 if i else 2)
            for i in range(4)
        )

    def forward(self, x):
        features = {}
        for level, conv in enumerate(self.convs, start=2):
            x = conv(x).relu()
            features[f"p{level}"] = x
        return features

    @property
    def size_divisibility(self):
        return 32

    def output_shape(self):
        return {f"p{level}": ShapeSpec(channels=CHANNELS, stride=2**level) for level in range(2, 6)}


if "build_export_test_backbone" not in BACKBONE_REGISTRY:

    @BACKBONE_REGISTRY.register()
    def build_export_test_backbone(cfg, input_shape):
        return TinyBackbone()


BASE = [
    *("MODEL.DEVICE", "cpu", "MODEL.BACKBONE.NAME", "build_export_test_backbone"),
    *("MODEL.PROPOSAL_GENERATOR.NAME", "FCOS", "MODEL.FCOS.IN_FEATURES", ["p3", "p4", "p5"]),
    *("MODEL.FCOS.FPN_STRIDES", [8, 16, 32], "MODEL.FCOS.SIZES_OF_INTEREST", [64, 128], "MODEL.FCOS.NUM_CLASSES", 3),
    *("MODEL.FCOS.NUM_CLS_CONVS", 1, "MODEL.FCOS.NUM_BOX_CONVS", 1, "MODEL.FCOS.INFERENCE_TH_TEST", 0.0),
    *("MODEL.FCOS.PRE_NMS_TOPK_TEST", 60, "MODEL.FCOS.POST_NMS_TOPK_TEST", 12),
    *("MODEL.BASIS_MODULE.NORM", "BN", "MODEL.BASIS_MODULE.CONVS_DIM", 16, "MODEL.BASIS_MODULE.NUM_CLASSES", 3),
    *("MODEL.BLENDMASK.BOTTOM_RESOLUTION", 28, "MODEL.BLENDMASK.ATTN_SIZE", 7),
    *("MODEL.PANOPTIC_FPN.COMBINE.ENABLED", False),
]  # fmt: skip
DR1 = [
    *("MODEL.META_ARCHITECTURE", "DR1Mask", "MODEL.BASIS_MODULE.NAME", "DR1Basis", "MODEL.DR1MASK.WIDTH", 16),
    *("MODEL.BASIS_MODULE.IN_FEATURES", ["p3", "p4", "p5"]),
]
PANOPTIC = [
    *("MODEL.PANOPTIC_FPN.COMBINE.ENABLED", True, "MODEL.SEM_SEG_HEAD.NUM_CLASSES", 3),
    *("MODEL.SEM_SEG_HEAD.IN_FEATURES", ["p2", "p3", "p4"], "MODEL.SEM_SEG_HEAD.CONVS_DIM", 32),
    *("MODEL.PANOPTIC_FPN.COMBINE.STUFF_AREA_LIMIT", 5, "MODEL.PANOPTIC_FPN.COMBINE.INSTANCES_CONFIDENCE_THRESH", 0.0),
]
SMALMASK = ["MODEL.META_ARCHITECTURE", "SmalMask", "MODEL.SMALMASK.NUM_CONVS", 1, "MODEL.SMALMASK.MASK_SIZE", 14]
FAMILIES = {
    "FCOS": ["MODEL.META_ARCHITECTURE", "OneStageDetector"],
    "deformable FCOS": ["MODEL.META_ARCHITECTURE", "OneStageDetector", "MODEL.FCOS.USE_DEFORMABLE", True],
    "SmalMask": SMALMASK,
    "SmalMask DefConv": [*SMALMASK, "MODEL.SMALMASK.PREDICTOR", "DefConv"],
    "SmalMask2": ["MODEL.META_ARCHITECTURE", "SmalMask2", "MODEL.SMALMASK.MASK_SIZE", 14],
    "BlendMask": ["MODEL.META_ARCHITECTURE", "BlendMask"],
    "DR1Mask vector": [*DR1, "MODEL.DR1MASK.ATTENTION", "vector"],
    "DR1Mask full": [*DR1, "MODEL.DR1MASK.ATTENTION", "full"],
    "DR1Mask factored": [*DR1, "MODEL.DR1MASK.ATTENTION", "factored"],
    "panoptic BlendMask": ["MODEL.META_ARCHITECTURE", "BlendMask", *PANOPTIC],
    "panoptic DR1Mask": [*DR1, *PANOPTIC],
}


def config(family: str, *overrides):
    cfg = get_cfg()
    cfg.merge_from_list([*BASE, *FAMILIES[family], *overrides])
    return cfg


def build(family: str, *overrides) -> nn.Module:
    """Return the small model in evaluation mode, with weights whose scores and boxes differ from place to place."""
    torch.manual_seed(0)
    model = build_model(config(family, *overrides)).eval()
    head = model.proposal_generator.fcos_head
    with torch.no_grad():
        for layer in (head.cls_logits, head.bbox_pred, head.ctrness):
            layer.weight.normal_(std=0.2)
        head.bbox_pred.bias.fill_(2)
    return model


def images(*sizes: tuple[int, int], seed: int = 0, frame: tuple[int, int] = SIZE) -> tuple[torch.Tensor, torch.Tensor]:
    """Return noise, (N, 3, H, W) uint8 in ``frame``, and the sizes (N, 2)."""
    generator = torch.Generator().manual_seed(seed)
    shape = (len(sizes), 3, *frame)
    return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8), torch.tensor(sizes)

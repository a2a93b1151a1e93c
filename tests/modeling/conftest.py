"""A small BlendMask and inputs for it."""

import pytest
import torch

from adet_ext import get_cfg
from adet_ext.d2.modeling import build_model
from adet_ext.d2.structures import BitMasks, Boxes, Instances
from adet_ext.modeling import panoptic

TINY = [
    *("MODEL.DEVICE", "cpu", "MODEL.META_ARCHITECTURE", "BlendMask"),
    *("MODEL.BACKBONE.NAME", "build_fcos_resnet_fpn_backbone", "MODEL.BACKBONE.FREEZE_AT", 0),
    *("MODEL.PROPOSAL_GENERATOR.NAME", "FCOS", "MODEL.RESNETS.NORM", "BN", "MODEL.RESNETS.DEPTH", 18),
    *("MODEL.RESNETS.RES2_OUT_CHANNELS", 64, "MODEL.RESNETS.OUT_FEATURES", ["res2", "res3", "res4", "res5"]),
    *("MODEL.FPN.IN_FEATURES", ["res3", "res4", "res5"], "MODEL.FPN.OUT_CHANNELS", 64),
    *("MODEL.FCOS.NUM_CLASSES", 3, "MODEL.BASIS_MODULE.NUM_CLASSES", 3, "MODEL.BASIS_MODULE.CONVS_DIM", 16),
    *("MODEL.PANOPTIC_FPN.COMBINE.ENABLED", False),
    *("MODEL.FCOS.NUM_CLS_CONVS", 1, "MODEL.FCOS.NUM_BOX_CONVS", 1),
]


@pytest.fixture
def build():
    """Build the small model with overrides KEY, VALUE, ..."""

    def make(*overrides):
        cfg = get_cfg()
        cfg.merge_from_list([*TINY, *overrides])
        torch.manual_seed(0)
        return build_model(cfg)

    return make


@pytest.fixture
def batch():
    """Two images of different sizes, with two objects and one."""

    def one(height: int, width: int, boxes: list[list[int]]) -> dict:
        generator = torch.Generator().manual_seed(height)
        instances = Instances((height, width))
        instances.gt_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32))
        instances.gt_classes = torch.arange(len(boxes)) % 3
        masks = torch.zeros(len(boxes), height, width, dtype=torch.bool)
        sem = torch.zeros(height, width, dtype=torch.int64)
        for i, (x0, y0, x1, y1) in enumerate(boxes):
            masks[i, y0:y1, x0:x1] = True
            sem[y0:y1, x0:x1] = i % 3 + 1
        instances.gt_masks = BitMasks(masks)
        image = torch.randint(0, 256, (3, height, width), generator=generator, dtype=torch.uint8)
        return {"image": image, "height": height, "width": width, "instances": instances, "basis_sem": sem}

    return [one(96, 128, [[10, 12, 60, 70], [50, 20, 120, 90]]), one(80, 90, [[5, 5, 80, 60]])]


@pytest.fixture(params=["cpu", "gpu"])
def merging(request, monkeypatch):
    """Merge panoptic segments as on the CPU, and on the CPU as on a GPU."""
    if request.param == "gpu":
        monkeypatch.setattr(panoptic, "_claim_on_cpu", panoptic._claim_by_sweeps)

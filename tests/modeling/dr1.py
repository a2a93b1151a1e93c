"""A small DR1Mask and inputs for it, for the tests beside this file."""

import torch

from adet_ext import get_cfg
from adet_ext.d2.modeling import build_model

from .conftest import TINY

DR1 = [
    *("MODEL.META_ARCHITECTURE", "DR1Mask", "MODEL.BACKBONE.SIZE_DIVISIBILITY", 4),
    *("MODEL.BASIS_MODULE.NAME", "DR1Basis", "MODEL.BASIS_MODULE.IN_FEATURES", ["p3", "p4", "p5", "p6", "p7"]),
    *("MODEL.BASIS_MODULE.NORM", "BN", "MODEL.DR1MASK.WIDTH", 8, "MODEL.BLENDMASK.BOTTOM_RESOLUTION", 28),
    *("MODEL.BLENDMASK.ATTN_SIZE", 7, "MODEL.FCOS.INFERENCE_TH_TEST", 0.0),
]
PANOPTIC = [
    *("MODEL.PANOPTIC_FPN.COMBINE.ENABLED", True, "MODEL.SEM_SEG_HEAD.NUM_CLASSES", 3),
    *("MODEL.PANOPTIC_FPN.COMBINE.STUFF_AREA_LIMIT", 5, "MODEL.PANOPTIC_FPN.COMBINE.INSTANCES_CONFIDENCE_THRESH", 0.0),
]


def build_dr1(*overrides):
    """The small model, with overrides KEY, VALUE, ..."""
    cfg = get_cfg()
    cfg.merge_from_list([*TINY, *DR1, *overrides])
    torch.manual_seed(0)
    return build_model(cfg)


def with_stuff(batch: list[dict]) -> list[dict]:
    """Two kinds of stuff, left and right, around the things; a strip at the top does not count."""
    for x in batch:
        labels = torch.ones_like(x["basis_sem"])
        labels[:, labels.shape[1] // 2 :] = 2
        labels[x["basis_sem"] > 0] = 0
        labels[:4] = 255
        x["sem_seg"] = labels
    return batch

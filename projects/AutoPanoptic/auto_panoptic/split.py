"""Two parts of the training images: one that the supernet learns from, one that candidates are compared on."""

import numpy as np

from adet_ext.d2.config import CfgNode
from adet_ext.d2.data import DatasetCatalog
from adet_ext.data.part import register_part
from adet_ext.errors import UserError

__all__ = ["split_sets", "with_training_set"]


def split_sets(cfg: CfgNode, *, evaluated: bool = False) -> tuple[str, str]:
    """Draw two parts of the one data set of DATASETS.TRAIN by SEED, register them, and return their names.

    The second has MODEL.AUTO_PANOPTIC.SEARCH.VAL_IMAGES images.

    Args:
        evaluated: whether PQ is computed on the second, which costs reading the panoptic annotations of all images. If
            not, the second is not registered, or stays as it is.

    Raises:
        UserError: there is not one data set, or there are too few images.
    """
    names, count = list(cfg.DATASETS.TRAIN), cfg.MODEL.AUTO_PANOPTIC.SEARCH.VAL_IMAGES
    if len(names) != 1:
        raise UserError(f"DATASETS.TRAIN must be one data set to search on; got {names}. Name one")
    records, seed = DatasetCatalog.get(names[0]), max(cfg.SEED, 0)
    if not 0 < count < len(records):
        raise UserError(
            f"MODEL.AUTO_PANOPTIC.SEARCH.VAL_IMAGES must be 1 to {len(records) - 1}, as {names[0]} has {len(records)} "
            f"images; got {count}. Change it"
        )
    order = np.random.default_rng(seed).permutation(len(records))
    parts = {"validation": sorted(order[:count]), "training": sorted(order[count:])}
    found = {}
    for what, indices in parts.items():
        found[what] = f"{names[0]}, seed {seed}, {what} of a search with {count}"
        if evaluated or what == "training":
            register_part(found[what], names[0], [records[i] for i in indices], panoptic=what == "validation")
    return found["training"], found["validation"]


def with_training_set(cfg: CfgNode, name: str) -> CfgNode:
    """Return a copy of the config that trains on another data set."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.DATASETS.TRAIN = (name,)
    return cfg

"""The project's config keys: MODEL.AUTO_PANOPTIC. No other key is added or edited."""

from adet_ext.config import add_missing, add_search_keys
from adet_ext.d2.config import CfgNode as CN

__all__ = ["add_auto_panoptic_config"]


def add_auto_panoptic_config(cfg: CN) -> None:
    """Add the keys with their defaults to ``cfg``, in place, where they are not there yet."""
    node = CN()
    # The name of an architecture that comes with the project, coco or ade20k; a JSON file's path; or "supernet", which
    # has all choices.
    node.ARCHITECTURE = "coco"
    # Channels of the stem and the four stages: [48, 96, 240, 480, 960] while searching.
    node.CHANNELS = [72, 172, 432, 864, 1728]
    # Searched blocks of each stage.
    node.REPEATS = [8, 8, 16, 8]
    # The norm of the backbone: "BN", or "SyncBN" over several GPUs.
    node.NORM = "BN"
    # How instances and stuff are merged: "supplement", as the paper's supplement says, or "code", as its code does.
    # The limits of both are MODEL.PANOPTIC_FPN.COMBINE's; INSTANCE_AREA_LIMIT, in pixels, is the supplement's alone.
    node.MERGE = "supplement"
    node.INSTANCE_AREA_LIMIT = 4096
    # The side in pixels of boxes that are pooled from P4; those of half the side come from P3, and so on.
    node.CANONICAL_BOX = 224
    _add_search(node)
    add_missing(cfg, CN({"MODEL": {"AUTO_PANOPTIC": node}}))


def _add_search(node: CN) -> None:
    search = node.SEARCH = CN()
    # How many images of DATASETS.TRAIN candidates are compared on; the supernet is not trained on them.
    search.VAL_IMAGES = 5000
    # How many of the other images give each candidate its batch-norm statistics, and how many at once.
    search.CALIBRATION_IMAGES = 500
    search.CALIBRATION_BATCH = 8
    # The limit of a backbone's multiply-adds at 224 x 224 pixels; 0: none.
    search.MAX_MULTIPLY_ADDS = 0.0
    # The paper's search, and DetNAS' evolution. See adet_ext.nas.path_priority and adet_ext.nas.genetic.
    search.PATH_PRIORITY = CN({"CYCLES": 5, "RANKS": 3})
    search.GENETIC = CN({"POPULATION": 50, "PARENTS": 10, "MUTATIONS": 20, "CROSSOVERS": 20, "RATE": 0.1})
    add_search_keys(search, early_stopping=False, cache="", cache_limit_gb=0.0)

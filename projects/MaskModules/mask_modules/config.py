"""The project's config keys: one node, MODEL.MASK_MODULES. No other key is added or edited."""

from adet_ext.config import add_missing, add_search_keys
from adet_ext.d2.config import CfgNode as CN

__all__ = ["add_mask_modules_config"]


def add_mask_modules_config(cfg: CN) -> None:
    """Add the keys with their defaults to ``cfg``, in place, where they are not there yet."""
    node = CN()
    # The module that MODEL.BASIS_MODULE.NAME "SearchedBasis" builds: the name of one that comes with the project
    # (blendmask, people, dr1mask), or a JSON file. Its width and convolutions are the module's own; the other keys of
    # MODEL.BASIS_MODULE count.
    node.GENOTYPE = "blendmask"
    _add_search(node)
    add_missing(cfg, CN({"MODEL": {"MASK_MODULES": node}}))


def _add_search(node: CN) -> None:
    # The search, with the detector of MODEL.WEIGHTS on images of DATASETS.TRAIN.
    search = node.SEARCH = CN()
    # The side of the images in pixels: the shorter side is brought to it, and the longer is cropped.
    search.SIZE = 256
    # How many images are used, drawn at random; 0: all. The share of them that the reward is measured on.
    search.IMAGES = 0
    search.VAL_FRACTION = 0.25
    # Training of a module: images of a batch, iterations of Adam, its learning rate.
    search.BATCH = 4
    search.ITERATIONS = 60
    search.LR = 2e-3
    # The hand-made module, a name or a JSON file: modules with more than MAX_COST times its multiply-adds are rejected
    # (0: none is), and the reward is the mean IoU times (multiply-adds / its multiply-adds)^-COST_EXPONENT.
    search.REFERENCE = "blendmask"
    search.MAX_COST = 1.0
    search.COST_EXPONENT = 0.0
    add_search_keys(search, early_stopping=True, cache="memory", cache_limit_gb=8.0)

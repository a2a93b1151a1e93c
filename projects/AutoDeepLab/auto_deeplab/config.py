"""The project's config keys: MODEL.AUTO_DEEPLAB and MODEL.ATROUS_HEAD. No other key is added or edited."""

from adet_ext.config import add_missing, add_search_keys
from adet_ext.d2.config import CfgNode as CN

__all__ = ["add_auto_deeplab_config"]


def add_auto_deeplab_config(cfg: CN) -> None:
    """Add the keys with their defaults to ``cfg``, in place, where they are not there yet."""
    node = CN()
    # The name of a genotype that comes with the project, or a JSON file's path.
    node.GENOTYPE = "auto_deeplab"
    # F: a block at stride s has F s / 4 channels. 20, 32 and 48 in Auto-DeepLab-S, -M and -L.
    node.WIDTH = 20
    # The norm of the backbone: "BN", or "SyncBN" over several GPUs.
    node.NORM = "BN"
    # The cells whose outputs are handed out, or "stem", whose stride is 4 whatever the path; empty: the third cell,
    # which the decoder reads, and the last.
    node.OUT_FEATURES = []
    # Scheduled drop path: the share of branches that the last cell drops at the end of the training.
    node.DROP_PATH = 0.0
    _add_search(node)

    # A decoder on any backbone: a pyramid on the last of MODEL.SEM_SEG_HEAD.IN_FEATURES, joined with the first if there
    # are two. Classes, ignored label, norm, loss weight and COMMON_STRIDE are MODEL.SEM_SEG_HEAD's.
    head = CN()
    # "aspp", or a dense prediction cell: the name of one that comes with the project, or a JSON file's path.
    head.PYRAMID = "aspp"
    # The rates of the atrous convolutions in the pyramid.
    head.RATES = [12, 24, 36]
    # What a dense prediction cell's rates are multiplied by: 1 at stride 16, 2 at stride 8.
    head.RATE_FACTOR = 1
    head.DROPOUT = 0.1
    # Channels of the pyramid and the decoder, and of the fine feature in it.
    head.WIDTH = 256
    head.FINE_WIDTH = 48
    _add_dense_search(head)
    add_missing(cfg, CN({"MODEL": {"AUTO_DEEPLAB": node, "ATROUS_HEAD": head}}))


def _add_search(node: CN) -> None:
    # The relaxed network and its search. The values are the paper's.
    search = node.SEARCH = CN()
    search.LAYERS = 12
    search.BLOCKS = 5
    # F while searching.
    search.WIDTH = 8
    # Channels of the stem's two stages.
    search.STEM = [64, 128]
    # alpha and beta learn from this share of the iterations on (20 of 40 epochs), by Adam.
    search.START = 0.5
    search.LR = 3e-3
    search.WEIGHT_DECAY = 1e-3
    # Compute a cell's insides again in the backward pass instead of keeping them: slower, a fraction of the memory.
    search.CHECKPOINT = False


def _add_dense_search(node: CN) -> None:
    # The search for a dense prediction cell, on features of MODEL.BACKBONE with MODEL.WEIGHTS; images come from
    # DATASETS.TRAIN, all of one size after INPUT.SEMANTIC's LONGER_SIDE and PAD_TO. The proxy's settings are ours.
    search = node.SEARCH = CN()
    search.BRANCHES = 5
    # How many images are used, drawn at random; 0: all. The share of them that the reward, mIoU, is measured on.
    search.IMAGES = 0
    search.VAL_FRACTION = 0.2
    # Training of a head: images of a batch, iterations of Adam, its learning rate.
    search.BATCH = 8
    search.ITERATIONS = 200
    search.LR = 2e-3
    add_search_keys(search, early_stopping=True, cache="memory", cache_limit_gb=32.0)

"""The project's config keys: one node, MODEL.NAS_FCOS. No other key is added or edited."""

from adet_ext.config import add_missing, add_search_keys
from adet_ext.d2.config import CfgNode as CN

__all__ = ["add_nas_fcos_config"]


def add_nas_fcos_config(cfg: CN) -> None:
    """Add the keys with their defaults to ``cfg``, in place, where they are not there yet.

    What NAS-FCOS shares with FCOS keeps FCOS' keys, MODEL.FCOS.
    """
    node = CN()
    # The genotypes of the FPN and of the head: the name of one that comes with the project, or a JSON file's path.
    node.FPN = "nas_fcos_fpn"
    node.HEAD = "nas_fcos_head"
    # C, the width of the FPN's features. Its levels have MODEL.FPN.OUT_CHANNELS, which is C or a multiple of it: with
    # twice C, the blocks that become levels keep both halves of their concatenation (@128-256).
    node.WIDTH = 256
    # The norm in the FPN: "BN", or "SyncBN" over several GPUs. The head has group norms.
    node.NORM = "BN"
    # DeformFPN-FCOS (7.4.3): how many deformable convolutions stand for each 3x3 convolution of the FPN.
    node.DEFORM_REPEATS = 2
    _add_retinanet(node)
    _add_search(node)
    add_missing(cfg, CN({"MODEL": {"NAS_FCOS": node}}))


def _add_retinanet(node: CN) -> None:
    # The RetinaNet of Table 7.2. Levels, strides, classes, focal loss and detection limits are MODEL.FCOS'; matching,
    # towers and the box loss are MODEL.RETINANET's.
    retinanet = node.RETINANET = CN()
    # Anchors have sides ANCHOR_SCALE x stride x 2^(i / OCTAVE_STEPS), i = 0, 1, ..., and these ratios of height to
    # width.
    retinanet.ANCHOR_SCALE = 4
    retinanet.OCTAVE_STEPS = 3
    retinanet.ASPECT_RATIOS = [0.5, 1.0, 2.0]


def _add_search(node: CN) -> None:
    # The search and its proxy task (7.3.3, 7.4.1). The values are the thesis'; DATASETS.TRAIN is what it is split from.
    search = node.SEARCH = CN()
    # What is searched for: "fpn" with FCOS' own head; "head" on the pyramid of MODEL.WEIGHTS, whose FPN is
    # MODEL.NAS_FCOS.FPN; "joint", both at once.
    search.STAGE = "fpn"
    # Blocks of the FPN and layers of the head.
    search.BLOCKS = 7
    search.LAYERS = 6
    # Images have this shorter side in pixels, and are cut to squares of it.
    search.SIZE = 384
    # How many images of DATASETS.TRAIN are used, drawn at random; 0: all.
    search.IMAGES = 0
    # The share of the images that the reward is measured on and no decoder is trained on: 1715 of 5715.
    search.VAL_FRACTION = 0.3
    # Training of a decoder: images of a batch, iterations of Adam, its learning rate, the decay of the Polyak average.
    search.BATCH = 200
    search.ITERATIONS = 300
    search.LR = 8e-4
    search.POLYAK = 0.9
    # "loss": minus the sum of FCOS' losses (equation 7.2); "ap": VOC's AP at an IoU of 0.5 (Figure 7.9).
    search.REWARD = "loss"
    add_search_keys(search, early_stopping=False, cache="output/nas_fcos/features", cache_limit_gb=64.0)

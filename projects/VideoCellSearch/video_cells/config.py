"""The project's config keys: one node, MODEL.VIDEO. No other key is added or edited."""

from adet_ext.config import add_missing, add_search_keys
from adet_ext.d2.config import CfgNode as CN

__all__ = ["add_video_config"]


def add_video_config(cfg: CN) -> None:
    """Add the keys with their defaults to ``cfg``, in place, where they are not there yet.

    Classes and the label that does not count are MODEL.SEM_SEG_HEAD.NUM_CLASSES and IGNORE_VALUE; the encoder is
    MODEL.BACKBONE.NAME, any with features at strides 4, 8, 16 and 32.
    """
    node = CN()
    # The static decoder: the name of a genotype that comes with the project (arch0, arch1, arch2), or a JSON file.
    node.DECODER = "arch2"
    # Channels of the decoder and of the cell.
    node.WIDTH = 64
    # How often a separable convolution of the decoder is repeated.
    node.SEP_REPEATS = 2
    # The weight of the auxiliary losses of the decoder's blocks (A.1), and whether their heads have a cell before the
    # classifier, as in nas-segm-pytorch. They are there in the training of a static network alone.
    node.AUX_WEIGHT = 0.3
    node.AUX_CELLS = True
    # The dynamic cell: a name or a JSON file; empty for the static network, which sees every frame alone.
    node.CELL = ""
    # Whether the cell's features go through the static decoder's classifier, or through one of their own.
    node.SHARE_CLASSIFIER = False
    # False cuts the connections between frames, to see what they are worth: the cell gets zeros for what it asks of
    # the frame before.
    node.DYNAMIC = True
    # The weight of the loss of the first frame, which the static network segments; the thesis has none (6.4).
    node.FIRST_FRAME_WEIGHT = 0.0
    # Compare predictions with labels at the labels' size; else at the predictions' own, a label for each eighth pixel.
    node.FULL_SIZE_LOSS = False
    _add_solver(node)
    _add_search(node)
    add_missing(cfg, CN({"MODEL": {"VIDEO": node}}))


def _add_solver(node: CN) -> None:
    # What SOLVER does not say. SOLVER.OPTIMIZER, MOMENTUM, WEIGHT_DECAY, BASE_LR and BACKBONE_MULTIPLIER are the static
    # network's.
    solver = node.SOLVER = CN()
    # After SOLVER's warm-up, learning rates fall as (1 - iteration / MAX_ITER) to this power; 0: they stay. 0.9 is the
    # usual one of "poly".
    solver.POLY_POWER = 0.9
    # With a cell: Adam's learning rate for it; for how many iterations it is trained alone; and the factor of its
    # learning rate from then on, when the static network is trained too (6.4.2). Learning rates fall from there on.
    solver.CELL_LR = 8e-3
    solver.CELL_ITERS = 0
    solver.JOINT_CELL_FACTOR = 0.5


def _add_search(node: CN) -> None:
    # The search (6.3.3, 6.4.1). The values are CamVid's; DATASETS.TRAIN is what it is split from, MODEL.WEIGHTS the
    # static network. Sequences have INPUT.VIDEO.FRAMES frames. Of INPUT.SEMANTIC, LONGER_SIDE is for all frames; PAD_TO
    # and PAD_VALUE are for those that cells are trained on, and so is CROP, on the grid of the largest stride.
    search = node.SEARCH = CN()
    # Layers of a cell: 5 tokens each. 5 on CamVid, 4 on CityScapes.
    search.LAYERS = 5
    # Cells with which the whole network would have more parameters are rejected; 0: none is. 6.4.3 says 3.4 million.
    search.MAX_PARAMETERS = 0
    # The share of the sequences that the reward is measured on and no cell is trained on.
    search.VAL_FRACTION = 0.1
    # How many sequences are used, drawn at random; 0: all.
    search.SEQUENCES = 0
    # Training of a cell: sequences of a batch, epochs, Adam's learning rate.
    search.BATCH = 48
    search.EPOCHS = 20
    search.LR = 8e-3
    add_search_keys(search, early_stopping=True, cache="memory", cache_limit_gb=32.0)

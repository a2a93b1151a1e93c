"""Config keys of semantic segmentation, of images and of clips: data, scores, context modules."""

from ..d2.config import CfgNode as CN

__all__ = ["add_semantic_keys"]


def add_semantic_keys(cfg: CN) -> None:
    """Add the keys with their defaults to ``cfg``, in place."""
    _add_data(cfg)
    _add_context(cfg)


def _add_data(cfg: CN) -> None:
    # Semantic segmentation: how images with label maps, and clips of them, are augmented. Clips always are, all frames
    # alike; single images if ENABLED, else as INPUT's other keys say. Flips are horizontal, where INPUT.HFLIP_TRAIN is
    # on.
    semantic = cfg.INPUT.SEMANTIC = CN()
    semantic.ENABLED = False
    # The longer side is first brought to this many pixels, in training and in evaluation; 0: it stays.
    semantic.LONGER_SIDE = 0
    # Training: both sides are multiplied by a number from MIN_SCALE to MAX_SCALE, padded to at least PAD_TO pixels, and
    # cropped at random to at most CROP pixels; 0 switches padding or cropping off.
    semantic.MIN_SCALE = 0.5
    semantic.MAX_SCALE = 2.0
    semantic.PAD_TO = 0
    semantic.CROP = 0
    # The color of the padding: "zero" (black) or "mean" (MODEL.PIXEL_MEAN). Its label is 255.
    semantic.PAD_VALUE = "zero"

    # Clips: how many consecutive frames one has in training, the last with labels.
    video = cfg.INPUT.VIDEO = CN()
    video.FRAMES = 3
    # In evaluation: every frame with labels is scored after up to FRAMES_TEST - 1 frames before it. 0: whole sequences
    # are given to the model, whose outputs for all their frames are in memory at the same time.
    video.FRAMES_TEST = 3

    # Trimap IoU is over the pixels within this many of a border between classes.
    cfg.TEST.TRIMAP_WIDTH = 3
    # Also measure how often a pixel keeps its class along the optical flow; takes most of the time of scoring.
    cfg.TEST.TEMPORAL_CONSISTENCY = True


def _add_context(cfg: CN) -> None:
    # A context module in a semantic branch: "" for none, "DoubleAttention", "GloRe", "SymbolicReasoning" or
    # "GraphConvUnit". MODEL.SEM_SEG_HEAD.NAME ContextSemSegFPNHead reads it.
    context = cfg.MODEL.CONTEXT = CN()
    context.NAME = ""
    # Modules in a row.
    context.UNITS = 1
    # K, the number of entities that pixels are projected to; SymbolicReasoning has one for each name instead.
    context.NODES = 64
    # S, the channels of an entity; GloRe's have 2K.
    context.CHANNELS = 128
    # The norm after the extension, of GloRe and GraphConvUnit.
    context.NORM = "BN"
    # SymbolicReasoning. NAMES: its nodes; empty: the classes of the first training set.
    sgr = context.SGR = CN()
    sgr.NAMES = []
    # The nodes' vectors: "learned", "hashed" (from the names' letters), or a text file of word vectors.
    sgr.VECTORS = "learned"
    # The length of learned and hashed vectors.
    sgr.DIM = 300
    # A JSON file of edges between names; empty: the vectors' cosines.
    sgr.GRAPH = ""
    # How pixels score nodes: "linear" is the published score, which gives every pixel the same mean of the nodes;
    # "relu" keeps them apart.
    sgr.SCORE = "linear"

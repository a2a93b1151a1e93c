"""The config keys that this package adds, each with its default and a sentence.

Keys that AdelaiDet's published FCOS and BlendMask files use keep their names and defaults, so those files load
unchanged. No key of Detectron2 is edited.
"""

from ..d2.config import CfgNode as CN

__all__ = ["add_adet_config", "add_missing"]


def add_adet_config(cfg: CN) -> None:
    """Add this package's keys with their defaults to ``cfg``, in place, where they are not there yet.

    A key that a user or another extension has set keeps its value; adding twice changes nothing.
    """
    ours = CN({"MODEL": {"BACKBONE": {}, "RESNETS": {}}, "INPUT": {"CROP": {}}, "SOLVER": {}, "TEST": {}})
    _add_fcos(ours)
    _add_blendmask(ours)
    _add_smalmask(ours)
    _add_dr1mask(ours)
    _add_backbones(ours)
    _add_keys_for_adelaidet_files(ours)
    _add_semantic(ours)
    # Random horizontal flips during training; INPUT.RANDOM_FLIP says of which kind.
    ours.INPUT.HFLIP_TRAIN = True
    # Whether a random crop may cut instances. False: the crop grows until none is cut.
    ours.INPUT.CROP.CROP_INSTANCE = True
    # "SGD" is Detectron2's own optimizer; "ADAMW" uses the same parameter groups with torch.optim.AdamW. This package's
    # Trainer reads the key; Detectron2's own DefaultTrainer always takes SGD.
    ours.SOLVER.OPTIMIZER = "SGD"
    # What learning rates of the backbone's body, below the pyramid, are multiplied by. This package's Trainer reads it.
    ours.SOLVER.BACKBONE_MULTIPLIER = 1.0
    add_missing(cfg, ours)


def add_missing(cfg: CN, ours: CN) -> None:
    """Add the keys of ``ours`` to ``cfg``, in place, where they are not there yet."""
    for key, value in ours.items():
        if key not in cfg:
            cfg[key] = value
        elif isinstance(value, CN) and isinstance(cfg[key], CN):
            add_missing(cfg[key], value)


def _add_fcos(cfg: CN) -> None:
    fcos = cfg.MODEL.FCOS = CN()
    # Number of foreground classes.
    fcos.NUM_CLASSES = 80
    # The levels that are detected on, finest first, and the stride of each in pixels.
    fcos.IN_FEATURES = ["p3", "p4", "p5", "p6", "p7"]
    fcos.FPN_STRIDES = [8, 16, 32, 64, 128]
    # How many levels are added on top of the pyramid (0: none, 1: P6, 2: P6 and P7), and from which feature:
    # "p5" or the backbone's "res5" (C5).
    fcos.TOP_LEVELS = 2
    fcos.TOP_FEATURE = "p5"
    # Upper ends of the levels' ranges of the largest of (l, t, r, b), in pixels; the last level has no end.
    fcos.SIZES_OF_INTEREST = [64, 128, 256, 512]
    # Initial foreground probability of every class, which sets the bias of the classification layer.
    fcos.PRIOR_PROB = 0.01
    # Score threshold, candidates kept per level before NMS, and detections kept per image after it.
    fcos.INFERENCE_TH_TRAIN = 0.05
    fcos.INFERENCE_TH_TEST = 0.05
    fcos.PRE_NMS_TOPK_TRAIN = 1000
    fcos.PRE_NMS_TOPK_TEST = 1000
    fcos.POST_NMS_TOPK_TRAIN = 100
    fcos.POST_NMS_TOPK_TEST = 100
    fcos.NMS_TH = 0.6
    # True: class probability times centre-ness is compared with the threshold; False: the class probability.
    fcos.THRESH_WITH_CTR = False
    # Normalisation in the towers: "GN", "NaiveGN" (the same numbers), "BN" and "SyncBN" (one per level), "none".
    fcos.NORM = "GN"
    # One learned factor per level on the predicted distances.
    fcos.USE_SCALE = True
    # What the quality branch learns: "ctrness" (centre-ness) or "iou" (IoU of the predicted box).
    fcos.BOX_QUALITY = "ctrness"
    # True: the quality branch sits on the box tower; False: on the classification tower, as in the first FCOS.
    fcos.CTR_ON_REG = True
    # Focal loss.
    fcos.LOSS_ALPHA = 0.25
    fcos.LOSS_GAMMA = 2.0
    # The classification loss is divided by the number of positives ("fg"), that of positives and images
    # ("fg_and_images", the first FCOS), its moving average ("moving_fg") or the number of locations ("all").
    fcos.LOSS_NORMALIZER_CLS = "fg"
    fcos.LOSS_WEIGHT_CLS = 1.0
    # How distances are predicted: "relu", rectified and in units of the stride; "exp", exponentials in pixels, whose
    # IoU losses are smoothed in pixels too, as in the first FCOS.
    fcos.BOX_CODING = "relu"
    # "giou", "iou" (-log IoU) or "linear_iou" (1 - IoU).
    fcos.LOC_LOSS_TYPE = "giou"
    # Towers: 3x3 convolutions of each branch and of the part both share; a deformable last one on request.
    fcos.NUM_CLS_CONVS = 4
    fcos.NUM_BOX_CONVS = 4
    fcos.NUM_SHARE_CONVS = 0
    fcos.USE_DEFORMABLE = False
    # Positives lie within POS_RADIUS strides of the box centre; without centre sampling, anywhere in the box.
    fcos.CENTER_SAMPLE = True
    fcos.POS_RADIUS = 1.5


def _add_blendmask(cfg: CN) -> None:
    blend = cfg.MODEL.BLENDMASK = CN()
    # M, the side of an instance's attention map, and how it is brought to R x R: "nearest" or "bilinear".
    blend.ATTN_SIZE = 14
    blend.TOP_INTERP = "bilinear"
    # R, the side of the cropped bases and of the predicted mask.
    blend.BOTTOM_RESOLUTION = 56
    # "ROIAlignV2" samples bilinearly, "ROIAlign" too but without the half-pixel correction, "ROIPool" is nearest.
    blend.POOLER_TYPE = "ROIAlignV2"
    blend.POOLER_SAMPLING_RATIO = 1
    # 1 / stride of the bases.
    blend.POOLER_SCALES = (0.25,)
    blend.INSTANCE_LOSS_WEIGHT = 1.0
    # "blender" merges by predicted attentions; "assembler" (FCIS) by fixed one-hot ones, with NUM_BASES = ATTN_SIZE^2.
    blend.MERGE = "blender"
    # Hand out the bases and the semantic prediction beside the detections.
    blend.VISUALIZE = False

    basis = cfg.MODEL.BASIS_MODULE = CN()
    # The bottom module: "ProtoNet" (YOLACT) or "DeepLabV3Plus".
    basis.NAME = "ProtoNet"
    # K, the number of bases. With one, bases and attentions pass a sigmoid instead of the softmax.
    basis.NUM_BASES = 4
    basis.IN_FEATURES = ["p3", "p4", "p5"]
    basis.CONVS_DIM = 128
    basis.NUM_CONVS = 3
    basis.NORM = "SyncBN"
    # DeepLabV3Plus: dilations of the atrous pyramid on its last input, channels kept of its first.
    basis.ASPP_DILATIONS = [6, 12, 18]
    basis.PROJECT_CHANNELS = 48
    # Auxiliary semantic segmentation of things on the first input, at stride COMMON_STRIDE.
    basis.LOSS_ON = False
    basis.LOSS_WEIGHT = 0.3
    basis.COMMON_STRIDE = 8
    basis.NUM_CLASSES = 80


def _add_smalmask(cfg: CN) -> None:
    smal = cfg.MODEL.SMALMASK = CN()
    # The last layer: "Conv", "DefConv" (modulated deformable), "RoIConv" or "RoIPred" (both guided by boxes).
    smal.PREDICTOR = "RoIPred"
    # k, the side of its kernel, and M, the side of the mask; for the two-stage form's head too.
    smal.KERNEL = 5
    smal.MASK_SIZE = 28
    # "separate": a tower of its own, of NUM_CONVS 3x3 convolutions normalised by NORM; "shared": FCOS' box tower.
    smal.TOWER = "separate"
    smal.NUM_CONVS = 4
    smal.NORM = "GN"
    # For each level of MODEL.FCOS.IN_FEATURES, the level its masks are predicted from; empty: itself.
    smal.LEVELS = []
    # L, which sets MODEL.FCOS.SIZES_OF_INTEREST to L, 2 L, 4 L, ...; 0: they stay as that key says.
    smal.CANONICAL_LENGTH = 0
    # Whose boxes guide the predictor in training, and crop its target: "w/" the ground truth's, "w/o" the predicted
    # ones, "fix" ground truth in the first FIX_ITERS iterations, "random" with probability 1 - i / RANDOM_ITERS.
    smal.TEACHER_FORCING = "w/"
    smal.FIX_ITERS = 18000
    smal.RANDOM_ITERS = 90000
    smal.LOSS_WEIGHT = 1.0
    # SmalMask2: canonical lengths of the poolers; all are trained with, the largest alone is used in inference.
    smal.POOLER_LENGTHS = [64, 128]


def _add_dr1mask(cfg: CN) -> None:
    # What DR1Mask shares with BlendMask keeps BlendMask's keys. MODEL.BASIS_MODULE: IN_FEATURES are the levels of the
    # inverted pyramid, NORM is its norm, NUM_BASES is K, and LOSS_ON, LOSS_WEIGHT, CONVS_DIM and COMMON_STRIDE belong
    # to the auxiliary semantic loss. MODEL.BLENDMASK: ATTN_SIZE is M, BOTTOM_RESOLUTION is R, and TOP_INTERP,
    # POOLER_TYPE, POOLER_SAMPLING_RATIO, INSTANCE_LOSS_WEIGHT and VISUALIZE are as there.
    dr1 = cfg.MODEL.DR1MASK = CN()
    # D, the channels of DR1Basis: 32 for instances, 64 for panoptic segmentation (Table 5.6).
    dr1.WIDTH = 32
    # What the contexts [A, B] are computed from: "box_tower", "cls_tower", "fpn" or "none" (Table 5.3).
    dr1.CONTEXT = "box_tower"
    # Whether there are the factors A, before the convolutions, and B, after them (Tables 5.1 and 5.2).
    dr1.USE_A = True
    dr1.USE_B = True
    # What the instance embeddings are computed from: "box_tower", "cls_tower" or "fpn".
    dr1.EMBEDDING = "box_tower"
    # "aligned" enlarges levels in step with strided convolutions; "resize" to the finer level's size (Table 5.5).
    dr1.UPSAMPLING = "aligned"
    # The instance prediction module: "vector", "full" or "factored" (Tables 5.4 and 5.7).
    dr1.ATTENTION = "factored"
    # "factored": the rank of an attention map, and whether a softmax over the K maps follows, as in BlendMask.
    dr1.RANK = 4
    dr1.ATTENTION_SOFTMAX = True

    # Panoptic segmentation (5.4.3), which MODEL.PANOPTIC_FPN.COMBINE.ENABLED switches on. Stuff classes are
    # MODEL.SEM_SEG_HEAD.NUM_CLASSES - 1, its IGNORE_VALUE marks pixels that do not count; confidence, overlap and stuff
    # area limits are MODEL.PANOPTIC_FPN.COMBINE's.
    pano = dr1.PANOPTIC = CN()
    pano.LOSS_WEIGHT = 0.5
    # "pixel": every pixel weighs the same in the cross-entropy; "segment": every segment, as in PQ.
    pano.LOSS_BALANCE = "pixel"
    # Whether an instance competes for the pixels in its box alone, in training and in inference.
    pano.IN_BOX_TRAIN = True
    pano.IN_BOX_TEST = True


def _add_backbones(cfg: CN) -> None:
    # MobileNet-v2 in place of the ResNet, in AdelaiDet's pyramids.
    cfg.MODEL.MOBILENET = False
    # Anti-aliased ResNet of AdelaiDet's files; BlurConv has keys of its own, MODEL.RESNETS.BLUR.
    cfg.MODEL.BACKBONE.ANTI_ALIAS = False
    _add_blur(cfg)
    # Images are padded to a multiple of this. 0: the pyramid's own, the stride of the body's last level. Another number
    # makes a pyramid whose levels may be of odd size: 4 pads least (thesis 5.4.3).
    cfg.MODEL.BACKBONE.SIZE_DIVISIBILITY = 0
    # In stages with deformable convolutions, every how many blocks there is one.
    cfg.MODEL.RESNETS.DEFORM_INTERVAL = 1

    # VoVNet: which one ("V-19-eSE", "V-39-eSE", ...), and its norm.
    vovnet = cfg.MODEL.VOVNET = CN()
    vovnet.CONV_BODY = "V-39-eSE"
    vovnet.OUT_FEATURES = ["stage2", "stage3", "stage4", "stage5"]
    vovnet.NORM = "FrozenBN"

    # DLA: which one, and its norm.
    dla = cfg.MODEL.DLA = CN()
    dla.CONV_BODY = "DLA34"
    dla.NORM = "FrozenBN"

    # EfficientNet-Lite: "lite0" to "lite4", and its norm. NORM_EPS is 0.001 and PADDING "same" for weights from
    # TensorFlow (MODEL.WEIGHTS imagenet://efficientnet-lite0, timm's tf_efficientnet_lite*); weights trained in timm
    # (efficientnet_lite0) take 0.00001 and "symmetric".
    lite = cfg.MODEL.EFFICIENTNET_LITE = CN()
    lite.VARIANT = "lite0"
    lite.NORM = "FrozenBN"
    lite.NORM_EPS = 1e-3
    lite.PADDING = "same"


def _add_semantic(cfg: CN) -> None:
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


def _add_keys_for_adelaidet_files(cfg: CN) -> None:
    """Add keys that AdelaiDet's files set and that have no effect here, so that those files load."""
    # The towers always have activations.
    cfg.MODEL.FCOS.USE_RELU = True
    # FCOS hands its detections to the mask branch without keys.
    cfg.MODEL.FCOS.YIELD_PROPOSAL = False
    cfg.MODEL.FCOS.YIELD_BOX_FEATURES = False
    # The folder of prepared semantic labels; ours are made on the fly from the instances.
    cfg.MODEL.BASIS_MODULE.ANN_SET = "coco"
    # BlendMask's top layer is one convolution, whose width follows from NUM_BASES and ATTN_SIZE.
    cfg.MODEL.TOP_MODULE = CN()
    cfg.MODEL.TOP_MODULE.NAME = "conv"
    cfg.MODEL.TOP_MODULE.DIM = 16
    # Widths that the body and MODEL.FPN.OUT_CHANNELS set, and features that MODEL.FPN.IN_FEATURES sets.
    cfg.MODEL.VOVNET.OUT_CHANNELS = 256
    cfg.MODEL.VOVNET.BACKBONE_OUT_CHANNELS = 256
    cfg.MODEL.DLA.OUT_FEATURES = ["stage2", "stage3", "stage4", "stage5"]
    # Random rotation, for text spotting; the mapper refuses True.
    cfg.INPUT.IS_ROTATE = False


def _add_blur(cfg: CN) -> None:
    """BlurConv, for the backbones with "blur_resnet" in their names (thesis 3.3.2, equation 3.4)."""
    blur = cfg.MODEL.RESNETS.BLUR = CN()
    # M, the side of the binomial filter, 1 to 7; 1 does not blur.
    blur.TAPS = 3
    # What the blur sees beyond the border: "reflect", "replicate" or "zeros".
    blur.PADDING = "reflect"
    # What is blurred: the stem's 7x7 convolution, the strided convolutions on the residual branches, the 1x1 ones
    # beside them, and, beyond equation 3.4, the stem's max pool (Zhang's MaxBlurPool).
    blur.STEM = True
    blur.STAGES = True
    blur.SHORTCUT = True
    blur.MAX_POOL = False

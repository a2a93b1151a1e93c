"""Building blocks of networks, with Detectron2's names, parameters and numbers."""

from .basic import CNNBlockBase, ROIAlign, ShapeSpec, batched_nms, cat
from .conv import Conv2d, DeformConv, ModulatedDeformConv
from .norm import FrozenBatchNorm2d, NaiveSyncBatchNorm, get_norm
from .paste import paste_masks_in_image

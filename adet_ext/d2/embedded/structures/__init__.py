"""Boxes, instances, images and masks, with Detectron2's names, behaviour and numbers."""

from .boxes import Boxes, BoxMode, pairwise_iou
from .image_list import ImageList
from .instances import Instances
from .masks import BitMasks, PolygonMasks, ROIMasks, polygons_to_bitmask

__all__ = [
    "BitMasks",
    "BoxMode",
    "Boxes",
    "ImageList",
    "Instances",
    "PolygonMasks",
    "ROIMasks",
    "pairwise_iou",
    "polygons_to_bitmask",
]

"""Boxes, instances, images and masks, with Detectron2's names, behavior and numbers."""

from .boxes import Boxes, BoxMode
from .image_list import ImageList
from .instances import Instances
from .masks import BitMasks, PolygonMasks, polygons_to_bitmask

"""Boxes, instances, images and masks, which data, models and evaluation exchange."""

from . import ENGINE

if ENGINE == "detectron2":
    from detectron2.structures import (
        BitMasks,
        Boxes,
        BoxMode,
        ImageList,
        Instances,
        PolygonMasks,
        polygons_to_bitmask,
    )
else:
    from .embedded.structures import (
        BitMasks,
        Boxes,
        BoxMode,
        ImageList,
        Instances,
        PolygonMasks,
        polygons_to_bitmask,
    )

__all__ = [
    "BitMasks",
    "BoxMode",
    "Boxes",
    "ImageList",
    "Instances",
    "PolygonMasks",
    "polygons_to_bitmask",
]

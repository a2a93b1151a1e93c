"""Mask branches, one module a family."""

from .blendmask import BlendMask
from .dr1mask import DR1Mask
from .smalmask import SmalMask
from .smalmask2 import SmalMask2

__all__ = ["BlendMask", "DR1Mask", "SmalMask", "SmalMask2"]

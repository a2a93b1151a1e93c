"""Mask branches, one module a family."""

from .blendmask import BlendMask
from .smalmask import SmalMask
from .smalmask2 import SmalMask2

__all__ = ["BlendMask", "SmalMask", "SmalMask2"]

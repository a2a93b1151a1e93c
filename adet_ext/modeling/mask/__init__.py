"""Mask branches, one module a family."""

from .blendmask import BlendMask
from .dr1mask import DR1Mask

__all__ = ["BlendMask", "DR1Mask"]

"""Mask branches, one module a family."""

from .blendmask import BlendMask

__all__ = ["BlendMask"]

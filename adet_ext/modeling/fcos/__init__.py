"""FCOS: the detector under all segmenters."""

from .fcos import FCOS

__all__ = ["FCOS"]

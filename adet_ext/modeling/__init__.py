"""Models; importing this package registers them with the engine."""

from . import backbone, context_modules
from .fcos import FCOS
from .mask import BlendMask, DR1Mask, SmalMask, SmalMask2
from .one_stage import OneStageDetector

__all__ = ["FCOS", "BlendMask", "DR1Mask", "OneStageDetector", "SmalMask", "SmalMask2", "backbone", "context_modules"]

"""Saving and loading of models and of training state."""

from . import ENGINE

if ENGINE == "detectron2":
    from detectron2.checkpoint import DetectionCheckpointer, PeriodicCheckpointer
else:
    from .embedded.checkpoint import DetectionCheckpointer, PeriodicCheckpointer

__all__ = ["DetectionCheckpointer", "PeriodicCheckpointer"]

"""Data sets: reading, checking, registering, mapping, and the loaders of training and evaluation."""

from . import lvis, shapes, voc  # register the built-in data sets
from .loader import build_test_loader, build_train_loader
from .lvis import register_lvis_dataset
from .mapper import AdetDatasetMapper
from .register import num_classes_of, register_dataset
from .voc import register_voc_dataset

__all__ = [
    "AdetDatasetMapper",
    "build_test_loader",
    "build_train_loader",
    "lvis",
    "num_classes_of",
    "register_dataset",
    "register_lvis_dataset",
    "register_voc_dataset",
    "shapes",
    "voc",
]

"""Data sets, what checks and registers them, the mapper, and the loaders of training and evaluation."""

from . import shapes  # registers the built-in data sets
from .loader import build_test_loader, build_train_loader
from .mapper import AdetDatasetMapper
from .register import num_classes_of, register_dataset

__all__ = [
    "AdetDatasetMapper",
    "build_test_loader",
    "build_train_loader",
    "num_classes_of",
    "register_dataset",
    "shapes",
]

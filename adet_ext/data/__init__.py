"""Data sets: reading, checking, registering, mapping, and the loaders of training and evaluation."""

# These register the built-in data sets.
from . import camvid, camvid_panoptic, cityscapes, lvis, pennfudan, shapes, shapes_sequences, voc
from .frame_folders import register_frame_folders
from .loader import build_test_loader, build_train_loader
from .lvis import register_lvis_dataset
from .mapper import AdetDatasetMapper
from .register import num_classes_of, register_dataset
from .semantic_mapper import SemanticMapper
from .semantic_sets import register_semantic
from .shapes_sequences import register_shapes_video
from .voc import register_voc_dataset

__all__ = [
    "AdetDatasetMapper",
    "SemanticMapper",
    "build_test_loader",
    "build_train_loader",
    "camvid",
    "camvid_panoptic",
    "cityscapes",
    "lvis",
    "num_classes_of",
    "pennfudan",
    "register_dataset",
    "register_frame_folders",
    "register_lvis_dataset",
    "register_semantic",
    "register_shapes_video",
    "register_voc_dataset",
    "shapes",
    "shapes_sequences",
    "voc",
]

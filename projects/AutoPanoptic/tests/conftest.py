"""The project is imported from its folder, not installed."""

import sys
from pathlib import Path

import pytest
import torch

PROJECT = Path(__file__).resolve().parents[1]
if str(PROJECT) not in sys.path:
    sys.path.insert(0, str(PROJECT))

import auto_panoptic  # noqa: E402, F401  (registers its models and keys)
from auto_panoptic.architecture import Architecture, save_architecture  # noqa: E402

from adet_ext import load_config  # noqa: E402
from adet_ext.d2.modeling import build_model  # noqa: E402
from adet_ext.data.shapes import register_shapes  # noqa: E402

# Five blocks, narrow, images of 64 pixels.
SMALL = [
    *("MODEL.AUTO_PANOPTIC.CHANNELS", "[4, 8, 12, 16, 24]", "MODEL.AUTO_PANOPTIC.REPEATS", "[1, 1, 2, 1]"),
    *("MODEL.FPN.OUT_CHANNELS", "32", "MODEL.ROI_BOX_HEAD.FC_DIM", "32", "MODEL.ROI_MASK_HEAD.CONV_DIM", "32"),
    *("MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION", "3", "MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION", "6"),
    *("MODEL.RPN.POST_NMS_TOPK_TEST", "10", "MODEL.RPN.POST_NMS_TOPK_TRAIN", "10"),
    *("TEST.DETECTIONS_PER_IMAGE", "5", "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", "8"),
]


@pytest.fixture
def small_architecture():
    """Return an architecture of the small space with every head layer in it."""
    return Architecture(
        ("3x3", "5x5", "7x7", "xception", "3x3"),
        ("AT3", "DW5", "DF3", "DF5"),
        ("AT5", "DW3", "DF3"),
        ("16", "4", "8", "4"),
        ("8", "8", "16", "4", "4"),
    )


@pytest.fixture
def small_arguments(tmp_path, small_architecture):
    """Return the file of a config's name, and the overrides that make it small, for commands."""
    path = tmp_path / "small.json"
    save_architecture(small_architecture, path)

    def make(name: str = "shapes"):
        own = [] if name.startswith("search") else ["MODEL.AUTO_PANOPTIC.ARCHITECTURE", str(path)]
        return str(PROJECT / "configs" / f"{name}.yaml"), [*SMALL, *own]

    return make


@pytest.fixture
def small_config(small_arguments):
    """Return a function that loads a config of the project, small, with overrides KEY, VALUE, ..."""

    def make(name: str = "shapes", *overrides: str):
        file, small = small_arguments(name)
        return load_config(file, [*small, *overrides])

    return make


@pytest.fixture
def small_model(small_config):
    """Build the model of ``small_config``, with the same weights every time."""

    def make(name: str = "shapes", *overrides: str):
        torch.manual_seed(0)
        return build_model(small_config(name, *overrides))

    return make


@pytest.fixture(scope="session")
def few_shapes():
    """Register a few panoptic shapes, and return the set's name."""
    register_shapes("few_shapes_panoptic", num_images=16, size=64, seed=5, panoptic=True)
    return "few_shapes_panoptic"

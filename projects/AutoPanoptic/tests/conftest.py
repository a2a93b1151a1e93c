"""The project's small config, and what else its tests share."""

from pathlib import Path

import auto_panoptic  # noqa: F401  (registers its models and keys)
import pytest
from auto_panoptic.architecture import Architecture, save_architecture

from adet_ext.data.shapes import register_shapes

PROJECT = Path(__file__).resolve().parents[1]

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


@pytest.fixture(scope="session")
def few_shapes():
    """Register a few panoptic shapes, and return the set's name."""
    register_shapes("few_shapes_panoptic", num_images=16, size=64, seed=5, panoptic=True)
    return "few_shapes_panoptic"

"""The project's small config, and what else its tests share."""

from pathlib import Path

import mask_modules  # noqa: F401  (registers its module and keys)
import pytest

PROJECT = Path(__file__).resolve().parents[1]

TINY = [
    *("MODEL.WEIGHTS", "", "MODEL.FPN.OUT_CHANNELS", "32", "MODEL.FCOS.NUM_CLS_CONVS", "1"),
    *("MODEL.FCOS.NUM_BOX_CONVS", "1", "DATASETS.TRAIN", "('shapes_val',)", "DATASETS.TEST", "()"),
    *("MODEL.MASK_MODULES.SEARCH.SIZE", "64", "MODEL.MASK_MODULES.SEARCH.IMAGES", "8"),
    *("MODEL.MASK_MODULES.SEARCH.ITERATIONS", "2", "MODEL.MASK_MODULES.SEARCH.BATCH", "3", "SEED", "1"),
]


@pytest.fixture
def small_arguments():
    """Return the file of a config's name, and the overrides that make it small, for commands."""
    return lambda name="search/shapes": (str(PROJECT / "configs" / f"{name}.yaml"), list(TINY))

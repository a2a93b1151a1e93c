"""The project is imported from its folder, not installed."""

import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[1]
if str(PROJECT) not in sys.path:
    sys.path.insert(0, str(PROJECT))

import mask_modules  # noqa: E402, F401  (registers its module and keys)

from adet_ext import load_config  # noqa: E402

TINY = [
    *("MODEL.WEIGHTS", "", "MODEL.FPN.OUT_CHANNELS", "32", "MODEL.FCOS.NUM_CLS_CONVS", "1"),
    *("MODEL.FCOS.NUM_BOX_CONVS", "1", "DATASETS.TRAIN", "('shapes_val',)", "DATASETS.TEST", "()"),
    *("MODEL.MASK_MODULES.SEARCH.SIZE", "64", "MODEL.MASK_MODULES.SEARCH.IMAGES", "8"),
    *("MODEL.MASK_MODULES.SEARCH.ITERATIONS", "2", "MODEL.MASK_MODULES.SEARCH.BATCH", "3", "SEED", "1"),
]


@pytest.fixture
def tiny_arguments():
    """Return the file of a config's name, and the overrides that make it small, for commands."""
    return lambda name: (str(PROJECT / "configs" / f"{name}.yaml"), list(TINY))


@pytest.fixture
def tiny_config(tiny_arguments):
    """Return the config of a name, small, with overrides KEY, VALUE, ..."""

    def make(name: str = "search/shapes", *overrides: str):
        file, tiny = tiny_arguments(name)
        return load_config(file, [*tiny, *overrides])

    return make

"""The project is imported from its folder, not installed."""

import sys
from pathlib import Path

import pytest
import torch

PROJECT = Path(__file__).resolve().parents[1]
if str(PROJECT) not in sys.path:
    sys.path.insert(0, str(PROJECT))

import nas_fcos  # noqa: E402, F401  (registers its models and keys)

from adet_ext import load_config  # noqa: E402
from adet_ext.d2.modeling import build_model  # noqa: E402

# A ResNet-18 from scratch, narrow, for three classes.
TINY = [
    *("MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "", "MODEL.BACKBONE.FREEZE_AT", "0", "MODEL.RESNETS.NORM", "BN"),
    *("MODEL.RESNETS.DEPTH", "18", "MODEL.RESNETS.RES2_OUT_CHANNELS", "64", "MODEL.FCOS.NUM_CLASSES", "3"),
    *("MODEL.FPN.OUT_CHANNELS", "32", "MODEL.NAS_FCOS.WIDTH", "32"),
]


@pytest.fixture
def tiny_arguments():
    """Return the file of a config's name, and the overrides that make it small, for commands."""
    return lambda name: (str(PROJECT / "configs" / f"{name}.yaml"), list(TINY))


@pytest.fixture
def tiny_config(tiny_arguments):
    """Return the config of a name, small, with overrides KEY, VALUE, ..."""

    def make(name: str, *overrides: str):
        file, tiny = tiny_arguments(name)
        return load_config(file, [*tiny, *overrides])

    return make


@pytest.fixture
def tiny_model(tiny_config):
    """Build the model of :func:`tiny_config`, with the same weights every time."""

    def make(name: str, *overrides: str):
        torch.manual_seed(0)
        return build_model(tiny_config(name, *overrides))

    return make

"""The project's small config, and what else its tests share."""

from pathlib import Path

import nas_fcos  # noqa: F401  (registers its models and keys)
import pytest

PROJECT = Path(__file__).resolve().parents[1]

# A ResNet-18 from scratch, narrow, for three classes.
TINY = [
    *("MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "", "MODEL.BACKBONE.FREEZE_AT", "0", "MODEL.RESNETS.NORM", "BN"),
    *("MODEL.RESNETS.DEPTH", "18", "MODEL.RESNETS.RES2_OUT_CHANNELS", "64", "MODEL.FCOS.NUM_CLASSES", "3"),
    *("MODEL.FPN.OUT_CHANNELS", "32", "MODEL.NAS_FCOS.WIDTH", "32"),
]


@pytest.fixture
def small_arguments():
    """Return the file of a config's name, and the overrides that make it small, for commands."""
    return lambda name: (str(PROJECT / "configs" / f"{name}.yaml"), list(TINY))

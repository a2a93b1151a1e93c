"""The project's small config, and what else its tests share."""

import json
from pathlib import Path

import nas_fcos  # noqa: F401  (registers its models and keys)
import pytest
from PIL import Image

from adet_ext.data.shapes import ShapesSpec, shapes_coco_json, shapes_image

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


@pytest.fixture(scope="session")
def shapes_folder(tmp_path_factory):
    """A few shapes as a COCO data set in files, so that evaluation is short."""
    folder = tmp_path_factory.mktemp("shapes")
    spec = ShapesSpec(num_images=4, height=96, width=96, seed=3)
    content = shapes_coco_json(spec)
    for i, entry in enumerate(content["images"]):
        entry["file_name"] = f"{i}.png"
        Image.fromarray(shapes_image(spec, i)).save(folder / entry["file_name"])
    (folder / "val.json").write_text(json.dumps(content))
    return folder

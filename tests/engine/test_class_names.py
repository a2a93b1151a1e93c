"""The names of the classes are saved with the weights, and data sets and drawings keep to them."""

import argparse
import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from adet_ext.cli import train
from adet_ext.cli.inputs import load_predictor, metadata_of
from adet_ext.d2.data import MetadataCatalog
from adet_ext.engine.checkpoint import AdetCheckpointer, classes_in
from adet_ext.engine.trainer import Trainer
from adet_ext.errors import UserError

from .. import runs

SHAPES = ["circle", "square", "triangle", "star", "ring", "cross"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of one iteration."""
    folder = tmp_path_factory.mktemp("run")
    trainer = Trainer(runs.config(folder, "SOLVER.MAX_ITER", "1"))
    trainer.resume_or_load(resume=False)
    trainer.train()
    return folder


def coco_file(folder, names):
    """An image with a box, under the category of the last of ``names``."""
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(folder / "a.png")
    categories = [{"id": i, "name": name} for i, name in enumerate(names, 1)]
    mask = [[8, 8, 40, 8, 40, 40, 8, 40]]
    box = {"id": 1, "image_id": 1, "category_id": len(names), "bbox": [8, 8, 32, 32], "area": 1024, "iscrowd": 0}
    images = [{"id": 1, "file_name": "a.png", "height": 64, "width": 64}]
    path = folder / "a.json"
    path.write_text(
        json.dumps({"images": images, "annotations": [{**box, "segmentation": mask}], "categories": categories})
    )
    return str(path)


def test_a_checkpoint_has_the_names_of_its_training_set(trained):
    assert classes_in(str(trained / "model_final.pth")) == SHAPES
    assert classes_in(str(trained / "nothing.pth")) is None


def test_an_evaluated_set_is_matched_by_the_names_in_the_checkpoint(trained, tmp_path, forget):
    forget("turned")
    args = train.make_parser().parse_args(
        ["--config-file", runs.CONFIG, "--eval-only", "--dataset", "turned", str(tmp_path)]
        + [coco_file(tmp_path, SHAPES[::-1])]
        + [*runs.OVERRIDES[: runs.OVERRIDES.index("DATASETS.TRAIN")], "MODEL.WEIGHTS", str(trained / "model_final.pth")]
    )
    cfg = train.configure(args)
    assert MetadataCatalog.get("turned").thing_classes == SHAPES
    assert cfg.DATASETS.TEST == ("turned",) and cfg.MODEL.FCOS.NUM_CLASSES == 6


def test_a_set_of_another_order_is_refused(trained):
    checkpointer = AdetCheckpointer(Trainer.build_model(runs.config(trained)))
    checkpointer.load_to_predict(str(trained / "model_final.pth"))
    checkpointer.check_classes("mine", SHAPES)
    checkpointer.check_classes("mine", None)
    with pytest.raises(UserError, match="data set mine .* got square for class 0, which is circle in the checkpoint"):
        checkpointer.check_classes("mine", [SHAPES[1], SHAPES[0], *SHAPES[2:]])
    with pytest.raises(UserError, match="got none for class 5, which is cross"):
        checkpointer.check_classes("mine", SHAPES[:5])


def test_a_run_goes_on_with_its_own_classes_alone(trained, tmp_path, monkeypatch):
    shutil.copytree(trained, tmp_path / "run")
    trainer = Trainer(runs.config(tmp_path / "run"))
    trainer.checkpointer.classes = [SHAPES[1], SHAPES[0], *SHAPES[2:]]
    with pytest.raises(UserError, match="got square for class 0"):
        trainer.resume_or_load(resume=True)


def test_a_start_from_weights_for_other_classes_is_said(trained, tmp_path, caplog):
    trainer = Trainer(runs.config(tmp_path, "MODEL.WEIGHTS", trained / "model_final.pth"))
    trainer.checkpointer.classes = [f"thing {i}" for i in range(6)]
    with caplog.at_level("WARNING"):
        trainer.resume_or_load(resume=False)
    assert "starts from weights for other classes: circle, square" in caplog.text


def test_drawings_have_the_names_in_the_checkpoint(trained, tmp_path):
    content = torch.load(trained / "model_final.pth", weights_only=True)
    content["classes"] = [f"thing {i}" for i in range(6)]
    torch.save(content, tmp_path / "other.pth")
    words = [*runs.OVERRIDES, "DATASETS.TEST", "('shapes_val',)", "MODEL.WEIGHTS", str(tmp_path / "other.pth")]
    predictor = load_predictor(runs.CONFIG, words, 0.3)
    given = argparse.Namespace(class_names=None, dataset_names=None)
    assert metadata_of(predictor, given).thing_classes == content["classes"]
    given.dataset_names = "shapes_val"
    assert metadata_of(predictor, given).thing_classes == SHAPES

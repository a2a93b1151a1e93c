"""Folders of frames on the command line: training on them, drawing them, their names in the demo."""

import argparse
import json

import cv2
import numpy as np
import pytest

from adet_ext.cli import data
from adet_ext.cli.inputs import given_classes, load_predictor, metadata_of
from adet_ext.cli.train import configure, make_parser
from adet_ext.d2.checkpoint import read_checkpoint
from adet_ext.d2.data import MetadataCatalog
from adet_ext.engine.trainer import Trainer
from adet_ext.errors import UserError

from .. import tiny_segmentor  # noqa: F401  (registers the model)


@pytest.fixture
def street(tmp_path, forget):
    for split in ("train", "val"):
        for t in range(3):
            for kind, shape in (("images", (32, 40, 3)), ("labels", (32, 40))):
                path = tmp_path / "street" / split / kind / "monday" / f"{t}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(path), np.full(shape, t % 2, np.uint8))
    content = {"classes": ["road", "car"], "palette": [[128, 64, 128], [0, 0, 142]]}
    (tmp_path / "street" / "classes.json").write_text(json.dumps(content))
    forget("s_train"), forget("s_val")
    return tmp_path / "street"


@pytest.fixture
def config_file(tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(
        "MODEL: {META_ARCHITECTURE: TinyVideoSegmentor, DEVICE: cpu, WEIGHTS: ''}\n"
        "INPUT: {SEMANTIC: {ENABLED: True, CROP: 24}}\n"
        "SOLVER: {IMS_PER_BATCH: 1, MAX_ITER: 1}\nDATALOADER: {NUM_WORKERS: 0}\n"
    )
    return str(path)


def configured(street, config_file, *more):
    frames = ["--frames", "s_train", str(street / "train"), "--frames", "s_val", str(street / "val")]
    return configure(make_parser().parse_args(["--config-file", config_file, *frames, *more]))


def test_the_first_folder_is_trained_on_and_the_classes_are_saved_with_the_weights(street, config_file, tmp_path):
    cfg = configured(street, config_file, "OUTPUT_DIR", str(tmp_path / "out"))
    assert (cfg.DATASETS.TRAIN, cfg.DATASETS.TEST) == (("s_train",), ("s_val",))
    assert cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES == 2 and cfg.MODEL.FCOS.NUM_CLASSES == 80
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=False)
    trainer.train()
    weights = str(tmp_path / "out" / "model_final.pth")
    assert read_checkpoint(weights)["classes"] == ["road", "car"]
    # The demo then knows the names, and the colors where the set is registered or its classes.json is given.
    words = ["MODEL.WEIGHTS", weights, "MODEL.SEM_SEG_HEAD.NUM_CLASSES", "2"]
    arguments = make_arguments()
    found = metadata_of(load_predictor(config_file, words, 0.3), arguments)
    assert found.thing_classes == ["road", "car"]
    arguments = make_arguments(dataset_names=str(street / "classes.json"))
    predictor = load_predictor(config_file, words[:2], 0.3, given_classes(arguments))
    assert predictor.cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES == 2
    assert metadata_of(predictor, arguments).stuff_colors == [(128, 64, 128), (0, 0, 142)]
    registered = load_predictor(config_file, [*words, "DATASETS.TEST", "('s_val',)"], 0.3)
    assert metadata_of(registered, make_arguments()) is MetadataCatalog.get("s_val")


def make_arguments(dataset_names=None):
    return argparse.Namespace(class_names=None, dataset_names=dataset_names)


def test_overrides_have_the_last_word_and_kinds_are_not_mixed(street, config_file):
    cfg = configured(street, config_file, "MODEL.SEM_SEG_HEAD.NUM_CLASSES", "5", "DATASETS.TEST", "('s_train',)")
    assert cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES == 5 and cfg.DATASETS.TEST == ("s_train",)
    with pytest.raises(UserError, match="--dataset and --frames"):
        configured(street, config_file, "--dataset", "x", "images", "x.json")


@pytest.mark.parametrize("source, count, width", [("annotation", 3, 40), ("dataloader", 2, 3 * 24)])
def test_frames_are_drawn_with_their_classes(street, tmp_path, source, count, width, capsys):
    out = tmp_path / "pictures"
    arguments = ["draw", "--frames", "s_train", str(street / "train"), "--source", source, "--num", str(count)]
    keys = ["INPUT.SEMANTIC.CROP", "24", "INPUT.SEMANTIC.MIN_SCALE", "1.0", "INPUT.SEMANTIC.MAX_SCALE", "1.0"]
    assert data.main([*arguments, "--output-dir", str(out), *keys]) == 0
    pictures = sorted(path for path in out.iterdir() if path.name != "contact_sheet.png")
    assert len(pictures) == count and (out / "contact_sheet.png").is_file()
    picture = cv2.imread(str(pictures[0]))
    assert picture.shape[1] == width
    road = 0.55 * np.array([128, 64, 128])  # BGR; the frame below it is black
    assert np.abs(picture[:20] - road).max(axis=-1).min() < 3

"""Exported files: written, opened, refused, and in the place of a model and of a config."""

import dataclasses
import json
import zipfile

import cv2
import numpy as np
import pytest
import torch

from adet_ext.cli import bench, demo, export, train
from adet_ext.cli import eval as evaluate
from adet_ext.data.shapes import register_shapes
from adet_ext.errors import UserError
from adet_ext.export.card import Card
from adet_ext.export.exported import config_of
from adet_ext.export.files import Options, export_model, exported_config, open_exported

from .tiny import SIZE, build, config


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """A panoptic DR1Mask in a file, and the model."""
    family = "panoptic DR1Mask"
    path = str(tmp_path_factory.mktemp("exported") / "model.pt2")
    model = build(family)
    cfg = config(family, "INPUT.MIN_SIZE_TEST", 64, "INPUT.MAX_SIZE_TEST", 96)
    export_model(cfg, model, path, Options("pt2", SIZE), ["a", "b", "c"])
    return path, model


def pictures(*sizes):
    generator = np.random.default_rng(0)
    return [generator.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]


def batch(arrays):
    return [
        {"image": torch.from_numpy(x.transpose(2, 0, 1).copy()), "height": x.shape[0], "width": x.shape[1]}
        for x in arrays
    ]


def test_a_file_gives_the_results_of_its_model(file):
    path, model = file
    exported = open_exported(path)
    inputs = batch(pictures(SIZE, (64, 90)))
    inputs[1].update(height=100, width=140)
    for x, got in zip(inputs, exported(inputs)):
        with torch.no_grad():
            expected = model([x])[0]
        mine, theirs = got["instances"], expected["instances"]
        assert mine.image_size == theirs.image_size and len(mine) == len(theirs) > 0
        torch.testing.assert_close(mine.pred_boxes.tensor, theirs.pred_boxes.tensor, rtol=1e-5, atol=1e-3)
        assert torch.equal(mine.pred_classes, theirs.pred_classes)
        assert (mine.pred_masks != theirs.pred_masks).float().mean() < 1e-3
        segments, expected_segments = got["panoptic_seg"][1], expected["panoptic_seg"][1]
        assert [x["category_id"] for x in segments] == [x["category_id"] for x in expected_segments]
        assert (got["panoptic_seg"][0] == expected["panoptic_seg"][0]).float().mean() > 0.999


def test_images_of_other_shapes_are_fitted_into_the_frame(file):
    exported = open_exported(file[0])
    assert exported._target(200, 100) == (64, 32)  # evaluation would take 96 x 48, and the frame has 64 rows
    assert exported._target(100, 130) == (64, 83)  # as evaluation does
    result = exported(batch(pictures((200, 100))))[0]["instances"]
    assert result.image_size == (200, 100) and result.pred_masks.shape[1:] == (200, 100)


def test_a_card_says_what_the_file_is(file):
    card = open_exported(file[0]).card
    assert (card.architecture, card.classes, card.frame, card.channels) == ("DR1Mask", ["a", "b", "c"], SIZE, "BGR")
    assert card.outputs == ["boxes", "scores", "classes", "valid", "masks", "unified"]
    assert Card.loads(card.dumps(), "") == card


def test_what_is_fixed_in_a_file_is_not_overridden(file):
    with pytest.raises(UserError, match="MODEL.FCOS.NMS_TH is fixed in the exported file"):
        exported_config(open_exported(file[0]), ["MODEL.FCOS.NMS_TH", "0.5"])


def test_a_file_made_beside_a_project_opens_without_it(file):
    card = open_exported(file[0]).card
    card = dataclasses.replace(card, config=card.config.replace("MODEL:", "MODEL:\n  PROJECT:\n    WIDTH: 3", 1))
    assert "PROJECT" not in config_of(card, file[0]).MODEL


def test_files_of_others_and_of_other_versions_are_refused(file, tmp_path):
    path = tmp_path / "broken.pt2"
    path.write_bytes(b"PK")
    with pytest.raises(UserError, match="broken.pt2 cannot be opened"):
        open_exported(str(path))
    with pytest.raises(UserError, match="there is none of this name"):
        open_exported(str(tmp_path / "nowhere.onnx"))
    values = {**json.loads(open_exported(file[0]).card.dumps()), "form": 99, "version": "7.1"}
    with pytest.raises(UserError, match="of adet_ext 7.1, which writes files of form 99"):
        Card.loads(json.dumps(values), "new.onnx")
    with pytest.raises(UserError, match="no block 'adet_ext'"):
        Card.loads(None, "theirs.onnx")


@pytest.mark.parametrize(
    ("options", "name", "message"),
    [
        (Options("pt2", (60, 96)), "a.pt2", "--size must be multiples of 32.*The next are 64 96"),
        (Options("pt2", SIZE), "a.onnx", "--output must end in .pt2"),
        (Options("torchscript", SIZE), "a.pt2", "--format must be onnx or pt2 or aoti"),
        (Options("pt2", SIZE, dynamic=True, source=(9, 9)), "a.pt2", "must not come together"),
        (Options("pt2", SIZE, batch=0), "a.pt2", "--batch must be 1 or more"),
    ],
)
def test_what_cannot_be_exported_is_refused_before_anything_is_written(tmp_path, options, name, message):
    with pytest.raises(UserError, match=message):
        export_model(config("FCOS"), build("FCOS"), str(tmp_path / name), options)
    assert not list(tmp_path.iterdir())


def test_a_file_is_not_replaced_unasked(file):
    with pytest.raises(UserError, match="exists; choose another --output, or add --overwrite"):
        export_model(config("FCOS"), build("FCOS"), file[0], Options("pt2", SIZE))
    assert zipfile.is_zipfile(file[0])


def test_other_models_are_refused(tmp_path):
    with pytest.raises(UserError, match="must be one of this package's detectors .* got Identity"):
        export_model(config("FCOS"), torch.nn.Identity(), str(tmp_path / "a.pt2"), Options("pt2", SIZE))


def test_demo_takes_a_file_in_place_of_a_config(file, tmp_path):
    picture, drawn, found = tmp_path / "in.png", tmp_path / "out.png", tmp_path / "found.json"
    cv2.imwrite(str(picture), pictures((80, 120))[0])
    words = ["--config-file", file[0], "--input", str(picture), "--output", str(drawn), "--json", str(found)]
    assert demo.main([*words, "--confidence-threshold", "0.0"]) == 0
    assert cv2.imread(str(drawn)).shape == (80, 120, 3)
    assert {x["category_name"] for x in json.loads(found.read_text())} <= {"a", "b", "c"}


def test_training_and_exporting_a_file_are_refused(file, tmp_path):
    with pytest.raises(UserError, match="must be a config to train"):
        train.main(["--config-file", file[0]])
    with pytest.raises(UserError, match="names no weights"):
        export.main(
            ["--config-file", "FCOS/R_50_1x.yaml", "--format", "pt2", "--output", str(tmp_path / "a.pt2")]
            + ["MODEL.WEIGHTS", ""]
        )


@pytest.fixture(scope="module")
def boxes_file(tmp_path_factory):
    """An FCOS for the built-in shapes in a file, and its config."""
    path = str(tmp_path_factory.mktemp("exported") / "fcos.pt2")
    overrides = ["MODEL.FCOS.NUM_CLASSES", 6, "INPUT.MIN_SIZE_TEST", 64, "DATALOADER.NUM_WORKERS", 0]
    export_model(config("FCOS", *overrides), build("FCOS", *overrides), path, Options("pt2", SIZE))
    return path


def test_eval_takes_a_file_in_place_of_a_config(boxes_file, tmp_path, forget):
    register_shapes("shapes_for_export", num_images=3, size=80)
    forget("shapes_for_export")
    words = ["DATASETS.TEST", "('shapes_for_export',)", "OUTPUT_DIR", str(tmp_path)]
    evaluate.main(["--config-file", boxes_file, *words])
    found = json.loads((tmp_path / "inference" / "coco_instances_results.json").read_text())
    assert {x["image_id"] for x in found} == {0, 1, 2} and len(found) > 10


def test_bench_takes_a_file_in_place_of_a_config(boxes_file, tmp_path):
    path = tmp_path / "times.json"
    words = ["models", "--config-file", boxes_file, "--height", "64", "--width", "96", "--rounds", "2", "--warmup", "0"]
    assert bench.main([*words, "--threads", "1", "--json", str(path)]) == 0
    (row,) = json.loads(path.read_text())["rows"]
    assert row["ms"]["median"] > 0 and row["detections"] > 0


def test_any_number_of_images_goes_through_a_file_of_one(boxes_file):
    found = open_exported(boxes_file)(batch(pictures((64, 96), (70, 130), (128, 64))))
    assert [x["instances"].image_size for x in found] == [(64, 96), (70, 130), (128, 64)]

import json

import numpy as np
import pytest
from PIL import Image

from adet_ext.cli import data, run
from adet_ext.d2.data import DatasetCatalog


@pytest.fixture
def paths(coco_set, forget):
    forget("drawn")
    annotations, images = coco_set.write()
    return ["drawn", images, annotations]


def test_pictures_and_a_contact_sheet_are_written(paths, tmp_path, capsys):
    out = tmp_path / "pictures"
    assert data.main(["draw", "--dataset", *paths, "--output-dir", str(out), "--num", "3"]) == 0
    names = sorted(p.name for p in out.iterdir())
    assert names == ["0000_image_0.png", "0001_image_1.png", "0002_image_2.png", "contact_sheet.png"]
    assert str(out) in capsys.readouterr().out
    drawn = np.asarray(Image.open(out / "0000_image_0.png"))
    assert drawn.shape[0] % 40 == 0 and drawn.shape[1] % 60 == 0


def test_the_loader_s_samples_are_drawn_after_augmentation(tmp_path):
    out = tmp_path / "pictures"
    opts = ["INPUT.MIN_SIZE_TRAIN", "(64,)", "MODEL.BASIS_MODULE.LOSS_ON", "True", "DATASETS.TRAIN", "('shapes_val',)"]
    arguments = ["draw", "--source", "dataloader", "--output-dir", str(out), "--num", "2", *opts]
    assert data.main(arguments) == 0
    pictures = [p for p in sorted(out.iterdir()) if p.name != "contact_sheet.png"]
    assert len(pictures) == 2
    height, width = np.asarray(Image.open(pictures[0])).shape[:2]
    assert height == 6 * 64 and width == 2 * 6 * 64  # the image, enlarged, and the basis labels


def test_validation_says_what_it_found_and_how_it_went(paths, coco_set, capsys):
    assert data.main(["validate", *paths]) == 0
    assert "4 images" in capsys.readouterr().out
    coco_set.write(category_id=99)
    assert data.main(["validate", *paths]) == 1
    printed = capsys.readouterr().out
    assert "category id 99" in printed and "annotation id 100" in printed


def test_registered_sets_are_listed(capsys):
    assert data.main(["list"]) == 0
    assert "shapes_train" in capsys.readouterr().out


def test_errors_are_one_sentence_and_status_two(paths, coco_set, tmp_path, capsys):
    coco_set.json.write_text("{")
    out = str(tmp_path / "pictures")
    assert run("data", ["draw", "--dataset", *paths, "--output-dir", out]) == 2
    assert "not JSON" in capsys.readouterr().err
    assert run("data", ["draw", "--output-dir", out, "MODEL.NO_SUCH_KEY", "1"]) == 2
    assert "NO_SUCH_KEY" in capsys.readouterr().err
    assert run("data", ["draw", "--output-dir", out, "--num", "0"]) == 2
    assert "drawn" not in DatasetCatalog


def test_the_annotation_file_stays_as_it_is(paths, coco_set, tmp_path):
    before = json.loads(coco_set.json.read_text())
    data.main(["draw", "--dataset", *paths, "--output-dir", str(tmp_path / "p"), "--num", "1"])
    assert json.loads(coco_set.json.read_text()) == before

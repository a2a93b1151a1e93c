"""Label maps from panoptic PNGs: the right labels, and runs that can be killed, repeated and trusted."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from adet_ext import cli
from adet_ext.data.prepare_panoptic import coco_splits, prepare_panoptic
from adet_ext.errors import UserError
from adet_ext.utils.segment_ids import id2rgb

# Stuff is numbered in the order of the file, whatever the ids: 200 -> 1, 92 -> 2.
CATEGORIES = [
    {"id": 1, "isthing": 1, "name": "cat"}, {"id": 200, "isthing": 0, "name": "sky"},
    {"id": 92, "isthing": 0, "name": "sea"}, {"id": 3, "isthing": 1, "name": "dog"},
]  # fmt: skip


@pytest.fixture
def source(tmp_path):
    """Four images: a cat with the largest id there can be, sky, sea and an unlabelled row."""
    (tmp_path / "png").mkdir()
    annotations, images = [], []
    for i in range(4):
        ids = np.zeros((6 + i, 8), np.uint32)
        ids[1:3], ids[3:5], ids[5:, :4], ids[5:, 4:] = 2**24 - 1, 7, 256 + i, 0
        segments = [
            {"id": 2**24 - 1, "category_id": 1}, {"id": 7, "category_id": 200}, {"id": 256 + i, "category_id": 92}
        ]  # fmt: skip
        Image.fromarray(id2rgb(ids)).save(tmp_path / "png" / f"{i}.png")
        annotations.append({"image_id": i, "file_name": f"{i}.png", "segments_info": segments})
        images.append({"id": i, "height": 6 + i, "width": 8})
    write(tmp_path, {"annotations": annotations, "categories": CATEGORIES, "images": images})
    return tmp_path


def write(folder: Path, content: dict) -> None:
    (folder / "panoptic.json").write_text(json.dumps(content))


def content(folder: Path) -> dict:
    return json.loads((folder / "panoptic.json").read_text())


@pytest.fixture(autouse=True)
def _read_anew():
    from adet_ext.data import prepare_panoptic as module

    module._annotations.cache_clear()


def prepare(folder: Path, **options):
    return prepare_panoptic(str(folder / "panoptic.json"), str(folder / "png"), str(folder / "stuff"), **options)


def labels(folder: Path, name: str) -> np.ndarray:
    return np.asarray(Image.open(folder / "stuff" / name))


@pytest.mark.parametrize("workers", [1, 2])
def test_things_are_0_stuff_counts_from_1_and_the_rest_is_255(source, workers):
    ticks = []
    assert prepare(source, workers=workers, tick=lambda: ticks.append(1)) == (4, 0, [])
    assert len(ticks) == 4
    for i in range(4):
        rows = [[255] * 8, *[[0] * 8] * 2, *[[1] * 8] * 2, *[[2] * 4 + [255] * 4] * (1 + i)]
        assert labels(source, f"{i}.png").tolist() == rows
        assert labels(source, f"{i}.png").dtype == np.uint8


def test_a_second_run_touches_only_what_is_missing_or_broken(source):
    prepare(source)
    paths = [source / "stuff" / f"{i}.png" for i in range(4)]
    before = [path.stat().st_mtime_ns for path in paths]
    paths[1].unlink()
    paths[2].write_bytes(paths[2].read_bytes()[:40])  # cut short
    Image.fromarray(np.full((9, 8), 5, np.uint8)).save(paths[3])  # of the right size, with labels of another image
    assert prepare(source) == (3, 1, [])
    assert paths[0].stat().st_mtime_ns == before[0]
    assert labels(source, "3.png").tolist()[1] == [0] * 8


def test_a_run_that_was_killed_leaves_no_half_file_under_a_real_name(source, monkeypatch):
    def killed(image, path, *arguments, **options):
        Path(path).write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(Image.Image, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        prepare(source)
    assert os.listdir(source / "stuff") == []


def test_remains_of_dead_processes_are_cleared_and_those_of_living_ones_kept(source):
    prepare(source)
    dead = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    remains = [source / "stuff" / f".0.{pid}.part.png" for pid in (dead.stdout.strip(), os.getpid())]
    for path in remains:
        path.write_bytes(b"half")
    assert prepare(source).finished == 4
    assert [path.exists() for path in remains] == [False, True]


def test_a_broken_png_is_named_and_does_not_stop_the_others(source):
    broken = source / "png" / "1.png"
    broken.write_bytes(broken.read_bytes()[:50])
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(source / "png" / "2.png")
    done = prepare(source)
    assert done.written == 2 and len(done.problems) == 2
    assert "1.png: not an image, or only a part of one" in done.problems[0]
    assert "2.png: its colors are not ids" in done.problems[1]
    assert sorted(os.listdir(source / "stuff")) == ["0.png", "3.png"]


def test_pngs_of_other_annotations_are_refused(source):
    changed = content(source)
    changed["annotations"][0]["segments_info"].append({"id": 999, "category_id": 92})
    changed["images"][1]["width"] = 9
    write(source, changed)
    done = prepare(source)
    assert done.written == 2
    assert "segments [999]" in done.problems[0] and "8 x 7 pixels, the annotations say 9 x 7" in done.problems[1]


def test_an_incomplete_download_is_one_sentence(source):
    with pytest.raises(UserError, match="nowhere: there is no such folder; .*must be unpacked too"):
        prepare_panoptic(str(source / "panoptic.json"), str(source / "nowhere"), str(source / "stuff"))
    (source / "png" / "0.png").unlink()
    (source / "png" / "3.png").unlink()
    with pytest.raises(UserError, match=r"2 of the 4 files .* not there \(0.png, 3.png\)"):
        prepare(source)
    assert not (source / "stuff").exists()


@pytest.mark.parametrize(
    "text, message",
    [
        ('{"annotations": [', "not JSON"),
        ('{"annotations": []}', "categories missing"),
        ('{"annotations": [{"bbox": []}], "categories": []}', "segments_info missing"),
        ("[]", "no panoptic annotations"),
    ],
)
def test_annotations_of_another_kind_are_refused(source, text, message):
    (source / "panoptic.json").write_text(text)
    with pytest.raises(UserError, match=message):
        prepare(source)


def test_too_many_stuff_classes_and_unknown_categories_are_refused(source):
    original = content(source)
    write(source, {**original, "categories": [{"id": i, "isthing": 0} for i in range(255)]})
    with pytest.raises(UserError, match="255 stuff classes do not fit"):
        prepare(source)
    _annotations_of(source, {**original, "categories": CATEGORIES[:2]})
    with pytest.raises(UserError, match=r"0.png has segments of categories \[92\]"):
        prepare(source)


def _annotations_of(folder: Path, changed: dict) -> None:
    from adet_ext.data import prepare_panoptic as module

    module._annotations.cache_clear()
    write(folder, changed)


def test_the_command_follows_cocos_folders_and_says_what_it_did(source, tmp_path, monkeypatch, capsys):
    coco = tmp_path / "root" / "coco"
    (coco / "annotations").mkdir(parents=True)
    (source / "panoptic.json").rename(coco / "annotations" / "panoptic_val2017.json")
    (source / "png").rename(coco / "panoptic_val2017")
    assert next(coco_splits(str(tmp_path / "root"), ["val2017"]))[2] == str(coco / "panoptic_stuff_val2017")
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "root"))
    assert cli.run("data", ["prepare-panoptic", "--splits", "val2017", "--workers", "1"]) == 0
    assert "4 label maps written, 0 were there" in capsys.readouterr().out
    (coco / "panoptic_val2017" / "2.png").write_bytes(b"")
    (coco / "panoptic_stuff_val2017" / "2.png").unlink()
    assert cli.run("data", ["prepare-panoptic", "--splits", "val2017", "--workers", "1"]) == 1
    said = capsys.readouterr()
    assert "0 label maps written, 3 were there" in said.out and "2.png" in said.err
    assert cli.run("data", ["prepare-panoptic"]) == 2  # train2017 is not there
    assert "panoptic_train2017.json: there is no such file" in capsys.readouterr().err


@pytest.mark.skipif("ADET_EXT_TEST_DATA" not in os.environ, reason="ADET_EXT_TEST_DATA names no folder of real data")
def test_coco_s_maps_are_detectron2_s_pixel_for_pixel(tmp_path):
    root = Path(os.environ["ADET_EXT_TEST_DATA"]) / "coco_tiny"
    annotations, source = root / "annotations" / "panoptic_train.json", root / "panoptic_train"
    done = prepare_panoptic(str(annotations), str(source), str(tmp_path), workers=2)
    assert done == (100, 0, [])
    for path in sorted((root / "panoptic_stuff_train").iterdir()):
        assert np.array_equal(np.asarray(Image.open(path)), np.asarray(Image.open(tmp_path / path.name))), path.name

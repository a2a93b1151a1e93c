import json
from fractions import Fraction

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask

from adet_ext.cli.demo import main
from adet_ext.cli.inputs import find_images
from adet_ext.config import get_cfg
from adet_ext.engine.predictor import Predictor
from adet_ext.errors import UserError
from adet_ext.utils import video

from ..fake_model import BlobModel, rectangles

CONFIG = ["--config-file", "unused.yaml", "--class-names", "tall", "wide"]


@pytest.fixture
def predictor():
    cfg = get_cfg()
    cfg.INPUT.MIN_SIZE_TEST = 0
    return Predictor(cfg, BlobModel())


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    cv2.imwrite(str(folder / "a.png"), rectangles(40, 60, (2, 3, 12, 33)))
    cv2.imwrite(str(folder / "b.png"), rectangles(50, 50, (5, 5, 45, 25), (10, 30, 20, 48)))
    cv2.imwrite(str(folder / "c.png"), rectangles(30, 30))
    return folder


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_folder_gives_one_overlay_per_image_and_one_json(tmp_path, folder, predictor, capsys):
    before, out, results = contents(folder), tmp_path / "out", tmp_path / "r" / "all.json"
    status = main([*CONFIG, "--input", str(folder), "--output", str(out), "--json", str(results)], predictor)
    assert status == 0 and contents(folder) == before
    assert sorted(p.name for p in out.iterdir()) == ["a.png", "b.png", "c.png"]
    assert cv2.imread(str(out / "b.png")).shape == (50, 50, 3)
    assert not np.array_equal(cv2.imread(str(out / "b.png")), cv2.imread(str(folder / "b.png")))
    entries = json.loads(results.read_text())
    assert [(e["image_id"], e["category_name"]) for e in entries] == [(1, "tall"), (2, "wide")]
    assert entries[0]["bbox"] == [2, 3, 10, 30] and entries[0]["file_name"].endswith("a.png")
    mask = coco_mask.decode(entries[0]["segmentation"])
    assert mask.shape == (40, 60) and mask[3:33, 2:12].all() and mask.sum() == 300
    printed = capsys.readouterr().out
    assert "net" in printed and "read" in printed and "draw" in printed and "all.json" in printed


def test_the_threshold_keeps_scores_from_it_on(tmp_path, folder, predictor):
    results = tmp_path / "all.json"
    for threshold, count in (("0", 3), ("0.3", 2), ("0.9", 0)):
        main([*CONFIG, "--input", str(folder), "--json", str(results), "--confidence-threshold", threshold], predictor)
        assert len(json.loads(results.read_text())) == count


def test_the_results_do_not_depend_on_the_batch_size(tmp_path, folder, predictor):
    texts = []
    for size in ("1", "2", "5"):
        path = tmp_path / f"{size}.json"
        main([*CONFIG, "--input", str(folder), "--json", str(path), "--batch-size", size], predictor)
        texts.append(path.read_text())
    assert texts[0] == texts[1] == texts[2] and predictor.model.batches == [1, 1, 1, 2, 1, 3]


def test_a_broken_image_does_not_stop_the_others(tmp_path, folder, predictor, capsys):
    (folder / "aa.png").write_text("no image")
    out = tmp_path / "out"
    arguments = [*CONFIG, "--input", str(folder), "--output", str(out), "--batch-size", "2"]
    assert main(arguments, predictor) == 1
    assert sorted(p.name for p in out.iterdir()) == ["a.png", "b.png", "c.png"]
    errors = capsys.readouterr().err
    assert errors.count("aa.png") == 1 and "Traceback" not in errors and "1 image could not be read" in errors


def test_names_that_are_numbers_are_the_image_ids(tmp_path, predictor):
    for name in ("000000000139", "000000000285"):
        cv2.imwrite(str(tmp_path / f"{name}.png"), rectangles(20, 20, (0, 0, 20, 15)))
    results = tmp_path / "out.json"
    main([*CONFIG, "--input", str(tmp_path / "0*.png"), "--json", str(results)], predictor)
    assert [e["image_id"] for e in json.loads(results.read_text())] == [139, 285]


def test_the_output_never_overwrites_an_input(tmp_path, folder, predictor):
    before = contents(folder)
    link = tmp_path / "link"
    link.symlink_to(folder)
    for output in (folder, link):
        with pytest.raises(UserError, match="overwritten"):
            main([*CONFIG, "--input", str(folder), "--output", str(output)], predictor)
    with pytest.raises(UserError, match="overwritten"):
        main([*CONFIG, "--input", str(folder / "a.png"), "--json", str(folder / "a.png")], predictor)
    assert contents(folder) == before


def test_equal_names_in_different_folders_stay_apart(tmp_path, predictor):
    for name in ("x", "y"):
        (tmp_path / name).mkdir()
        cv2.imwrite(str(tmp_path / name / "1.png"), rectangles(20, 20))
    out = tmp_path / "out"
    main([*CONFIG, "--input", str(tmp_path / "x"), str(tmp_path / "y"), "--output", str(out)], predictor)
    assert (out / "x" / "1.png").is_file() and (out / "y" / "1.png").is_file()


def test_one_image_may_name_its_output_file(tmp_path, folder, predictor):
    target = tmp_path / "new" / "drawn.jpg"
    assert main([*CONFIG, "--input", str(folder / "a.png"), "--output", str(target)], predictor) == 0
    assert cv2.imread(str(target)).shape == (40, 60, 3)


def test_an_unwritable_output_is_one_sentence(tmp_path, folder, predictor):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file.* is a file"):
        main([*CONFIG, "--input", str(folder), "--output", str(tmp_path / "file" / "out")], predictor)


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (["--input", "absent.png", "--output", "o"], "absent.png.*no such file"),
        (["--input", "{folder}"], "--output"),
        (["--input", "{folder}", "--output", "o", "--no-draw"], "--json"),
        (["--input", "{folder}", "--output", "o", "--batch-size", "0"], "--batch-size"),
        (["--input", "{folder}/empty", "--output", "o"], "no image"),
        (["--input", "{folder}/clip.mp4", "--output", "o"], "--video-input"),
        (["--video-input", "{folder}/none.mp4", "--output", "{folder}/o"], "none.mp4"),
    ],
)
def test_wrong_arguments_raise_on_one_line(folder, predictor, arguments, sentence):
    (folder / "empty").mkdir()
    (folder / "clip.mp4").write_bytes(b"")
    with pytest.raises(UserError, match=sentence):
        main([*CONFIG, *(a.format(folder=folder) for a in arguments)], predictor)


def test_globs_folders_and_files_give_every_image_once(folder):
    found = find_images([str(folder / "b.png"), str(folder), str(folder / "*.png")])
    assert [path[-5:] for path in found] == ["b.png", "a.png", "c.png"]


def test_class_names_come_from_a_registered_data_set(tmp_path, folder, predictor):
    results = tmp_path / "all.json"
    base = ["--config-file", "unused.yaml", "--input", str(folder), "--json", str(results), "--dataset-names"]
    main([*base, "coco_2017_val"], predictor)
    assert {(e["category_id"], e["category_name"]) for e in json.loads(results.read_text())} == {
        (1, "person"), (2, "bicycle")
    }  # fmt: skip
    with pytest.raises(UserError, match="no_such_set"):
        main([*base, "no_such_set"], predictor)


def test_class_names_come_from_the_file_that_was_trained_on(tmp_path, folder, predictor):
    file, results = tmp_path / "train.json", tmp_path / "all.json"
    categories = [{"id": 90, "name": "Größe"}, {"id": 7, "name": "chat noir"}]
    file.write_text(json.dumps({"images": [], "annotations": [], "categories": categories}))
    base = ["--config-file", "unused.yaml", "--input", str(folder), "--json", str(results), "--dataset-names"]
    with pytest.raises(UserError, match="train.json.*nothing to train on"):
        main([*base, str(file)], predictor)
    image = {"id": 1, "file_name": "a.png", "height": 8, "width": 8}
    file.write_text(json.dumps({"images": [image], "annotations": [], "categories": categories}))
    main([*base, str(file)], predictor)
    assert {(e["category_id"], e["category_name"]) for e in json.loads(results.read_text())} == {
        (7, "chat noir"), (90, "Größe")
    }  # fmt: skip
    with pytest.raises(UserError, match="nowhere.json: there is no such annotation file"):
        main([*base, "nowhere.json"], predictor)


def test_a_video_keeps_its_rate_and_length_and_plays(tmp_path, predictor):
    source, target, results = tmp_path / "in.mp4", tmp_path / "out", tmp_path / "all.json"
    frames = [rectangles(48, 64, (4 + 3 * i, 8, 34 + 3 * i, 28)) for i in range(6)]
    video.convert(frames, str(source), fps=Fraction(15))
    arguments = [*CONFIG, "--video-input", str(source), "--output", str(target), "--json", str(results)]
    assert main(arguments, predictor) == 0
    with video.VideoReader(str(target / "in.mp4")) as reader:
        assert reader.fps == 15
        drawn = list(reader)
    assert len(drawn) == 6 and drawn[0].shape == (48, 64, 3)
    assert any(np.abs(a.astype(int) - b).mean() > 5 for a, b in zip(drawn, frames))
    assert [e["image_id"] for e in json.loads(results.read_text())] == [1, 2, 3, 4, 5, 6]
    with pytest.raises(UserError, match="overwritten"):
        main([*CONFIG, "--video-input", str(source), "--output", str(source)], predictor)

"""Trained models: packing, listing, building, hashes, zoos elsewhere, and the figures on record."""

import functools
import http.server
import json
import re
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
import yaml

from adet_ext import model_zoo, trained
from adet_ext.cli import demo, zoo
from adet_ext.config import get_cfg, load_config
from adet_ext.d2.modeling import build_model
from adet_ext.engine import zoo_evaluation
from adet_ext.engine.checkpoint import AdetCheckpointer
from adet_ext.engine.zoo_pack import pack
from adet_ext.errors import UserError

_WEIGHTS = Path(__file__).resolve().parent.parent / "weights"
_SMALL = ["MODEL.FPN.OUT_CHANNELS", "32", "MODEL.BASIS_MODULE.CONVS_DIM", "16", "INPUT.MIN_SIZE_TEST", "64"]
_ABOUT = {
    "task": "instance segmentation",
    "data": "the built-in shapes",
    "purpose": "A test.",
    "limits": "Everything else.",
    "license": "Apache-2.0",
    "trained": {"seed": 0, "command": "none"},
    "evaluated_on": {"name": "shapes_val", "classes": ["disc", "box", "star", "ring", "drop", "moon"]},
}


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    """A zoo with one small model of random weights, and that model."""
    folder = tmp_path_factory.mktemp("zoo")
    torch.manual_seed(0)
    cfg = load_config("demo/shapes_R_18.yaml", [*_SMALL, "OUTPUT_DIR", "/home/somebody"])
    model = build_model(cfg).eval()
    torch.save({"model": model.state_dict(), "trainer": {"iteration": 3}}, folder / "model_final.pth")
    figures = {"mask AP": 12.345, "box AP": 10.0}
    record = pack(str(folder), "shapes/tiny", cfg, str(folder / "model_final.pth"), _ABOUT, figures)
    return folder, model, record


@pytest.fixture
def here(packed, monkeypatch):
    monkeypatch.setenv("ADET_EXT_ZOO", str(packed[0]))
    return packed


def test_what_is_packed_is_listed_with_size_figures_and_card(here, capsys):
    folder, _, record = here
    assert list(model_zoo.list()) == ["shapes/tiny"]
    assert record["figures"] == {"mask AP": 12.3, "box AP": 10.0} and record["parameters"] > 1e6
    assert zoo.main([]) == 0
    text = capsys.readouterr().out
    size = (folder / "shapes/tiny/model.safetensors").stat().st_size
    assert "shapes/tiny" in text and "mask AP 12.3, box AP 10.0" in text and f"{size / 1e6:.1f}" in text
    card = (folder / "shapes/tiny/README.md").read_text()
    assert all(word in card for word in ("What it cannot do", "Everything else.", "- seed: 0", "| mask AP | 12.3 |"))
    assert "/home/somebody" not in (folder / "shapes/tiny/config.yaml").read_text()


def test_a_trained_model_has_the_weights_that_were_packed(here):
    _, model, _ = here
    found = model_zoo.get("shapes/tiny", trained=True, device="cpu")
    assert not found.training and type(found) is type(model)
    theirs = {name: value for name, value in model.state_dict().items() if "seg_head" not in name}
    for name, value in found.state_dict().items():
        if name in theirs and value.is_floating_point():
            assert torch.equal(value, theirs[name].half().float()), name
    assert model_zoo.get("demo/shapes_R_18.yaml", device="meta").training


def test_a_training_can_start_from_a_trained_model(here):
    _, model, _ = here
    other = build_model(load_config("demo/shapes_R_18.yaml", _SMALL))
    checkpointer = AdetCheckpointer(other)
    checkpointer.load("zoo://shapes/tiny")
    assert checkpointer.loaded_classes == _ABOUT["evaluated_on"]["classes"]
    name = "backbone.fpn_output3.weight"
    assert torch.equal(other.state_dict()[name], model.state_dict()[name].half().float())
    with pytest.raises(UserError, match="there is no trained model 'tiny'"):
        checkpointer.load("zoo://tiny")


def test_the_demo_takes_a_photo_and_a_models_name_alone(here, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    cv2.imwrite("photo.jpg", np.full((60, 80, 3), 128, np.uint8))
    options = ["--model", "shapes/tiny", "--json", "all.json", "--confidence-threshold", "0"]
    assert demo.main(["photo.jpg", *options, "MODEL.FCOS.INFERENCE_TH_TEST", "0.0"]) == 0
    assert cv2.imread("predictions/photo.jpg").shape == (60, 80, 3)
    names = {entry["category_name"] for entry in json.loads(Path("all.json").read_text())}
    assert names and names <= set(_ABOUT["evaluated_on"]["classes"])
    with pytest.raises(UserError, match="nothing to predict on: give images, folders or videos"):
        demo.main([])
    with pytest.raises(UserError, match="--output must be a folder for 2 inputs; got one.png"):
        demo.main(["photo.jpg", "photo.jpg", "predictions", "--output", "one.png"])


def test_an_unknown_name_is_refused_with_a_near_one(here):
    with pytest.raises(UserError, match="there is no trained model 'shapes/tinny' .* did you mean shapes/tiny?"):
        model_zoo.get("shapes/tinny", trained=True)


@pytest.mark.parametrize("file", trained.FILES)
@pytest.mark.parametrize("change", ["cut off", "altered", "missing"])
def test_a_file_that_is_not_the_recorded_one_is_refused(here, file, change, tmp_path, monkeypatch):
    copy = tmp_path / "zoo" / "shapes" / "tiny"
    copy.mkdir(parents=True)
    for path in (here[0] / "shapes" / "tiny").iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    (tmp_path / "zoo" / "zoo.json").write_bytes((here[0] / "zoo.json").read_bytes())
    content = (copy / file).read_bytes()
    (copy / file).write_bytes(content[:-10] if change == "cut off" else content[:-1] + b"~")
    if change == "missing":
        (copy / file).unlink()
    monkeypatch.setenv("ADET_EXT_ZOO", str(tmp_path / "zoo"))
    sentence = "is missing; restore it" if change == "missing" else "must begin with .* cut off or altered; delete it"
    with pytest.raises(UserError, match=f"{re.escape(file)} .*{sentence}"):
        model_zoo.get_config("shapes/tiny", trained=True)


@pytest.mark.parametrize(
    "index",
    ["not json", "[]", '{"a": 1}', '{"a": {"files": {}}}', '{"../a": {"files": {}}}', '{"a": {"files": {"b": "c"}}}'],
)
def test_an_index_that_is_none_is_refused(index, tmp_path, monkeypatch):
    (tmp_path / "zoo.json").write_text(index)
    monkeypatch.setenv("ADET_EXT_ZOO", str(tmp_path))
    with pytest.raises(UserError, match="zoo.json is not the index of a zoo: .*; restore the file"):
        model_zoo.list()


def test_a_zoo_that_is_not_there_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("ADET_EXT_ZOO", str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="no trained checkpoints in .*nowhere.*; set ADET_EXT_ZOO to"):
        model_zoo.list()
    monkeypatch.setenv("ADET_EXT_ZOO", "http://127.0.0.1:9/zoo")
    with pytest.raises(UserError, match="http://127.0.0.1:9/zoo/zoo.json cannot be fetched .*; check ADET_EXT_ZOO"):
        model_zoo.list()


def test_a_zoo_at_an_address_is_fetched_once(here, tmp_path, monkeypatch):
    asked = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments):
            asked.append(self.path)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(here[0])))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("ADET_EXT_ZOO", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path))
    try:
        for _ in range(2):
            found = trained.find_trained("shapes/tiny")
        assert str(tmp_path) in found.weights and found.record["task"] == "instance segmentation"
        assert sorted(asked) == [*(f"/shapes/tiny/{file}" for file in sorted(trained.FILES)), "/zoo.json"]
    finally:
        server.shutdown()
        server.server_close()


def test_the_verdict_is_about_the_figures_as_printed():
    assert zoo._verdict(62.3, 62.34) == "equal" and zoo._verdict(None, 1.0) == "not on record"
    assert zoo._verdict(62.3, 62.37) == "differs by +0.1" and zoo._verdict(62.3, 60.0) == "differs by -2.3"


def test_zoo_eval_asks_for_what_it_needs(here, tmp_path):
    with pytest.raises(UserError, match="zoo eval needs --data DIR"):
        zoo.main(["eval"])
    with pytest.raises(UserError, match="--weights needs the name of one config; got 2"):
        zoo.main(["eval", "a", "b", "--weights", "c.pth"])
    with pytest.raises(UserError, match="there is no trained model 'zzz'"):
        zoo.main(["eval", "zzz", "--data", str(tmp_path)])


def test_zoo_eval_compares_with_the_figures_on_record(here, tmp_path, monkeypatch, capsys):
    data, place = tmp_path / "data" / "tiny", tmp_path / "zoo"
    (data / "val").mkdir(parents=True)
    cv2.imwrite(str(data / "val" / "a.png"), np.zeros((60, 80, 3), np.uint8))
    box = {"id": 1, "image_id": 1, "category_id": 1, "iscrowd": 0, "area": 200, "bbox": [10, 10, 20, 10]}
    box["segmentation"] = [[10, 10, 30, 10, 30, 20, 10, 20]]
    images = [{"id": 1, "file_name": "a.png", "width": 80, "height": 60}]
    content = {"images": images, "annotations": [box], "categories": [{"id": 1, "name": "disc"}]}
    (data / "val.json").write_text(json.dumps(content))
    evaluated = {"name": "tiny_val", "folder": "tiny", "images": "val", "annotations": "val.json"}
    evaluated |= {"made_by": "prepare-tiny", "classes": _ABOUT["evaluated_on"]["classes"]}
    cfg = load_config("demo/shapes_R_18.yaml", [*_SMALL, "MODEL.FCOS.INFERENCE_TH_TEST", "0.0"])
    weights = str(here[0] / "model_final.pth")
    about = {**_ABOUT, "evaluated_on": evaluated}
    pack(str(place), "a/b", cfg, weights, about, {"mask AP": 0.0, "mask AP50": 50.0, "PQ": 1.0})
    monkeypatch.setenv("ADET_EXT_ZOO", str(place))
    with pytest.raises(UserError, match="val.json is missing; make the data set by .* data prepare-tiny' and give"):
        zoo.main(["eval", "a/b", "--data", str(place)])
    with pytest.raises(UserError, match="has the data of no model; make a set"):
        zoo.main(["eval", "--data", str(place)])
    assert "left out: a/b, whose data are not in" in capsys.readouterr().out
    output = ["--output-dir", str(tmp_path / "out")]
    assert zoo.main(["eval", "a/b", "--data", str(tmp_path / "data"), *output]) == 1
    text = capsys.readouterr().out
    assert re.search(r"a/b +mask AP +0.0 +0.0 +equal", text) and re.search(
        r"mask AP50 +50.0 +0.0 +differs by -50.0", text
    )
    assert re.search(r"box AP +- +0.0 +not on record", text) and "figures differ" in text
    assert re.search(r"PQ +1.0 +- +differs: none here", text)


def test_a_project_s_model_needs_the_project(here, tmp_path, monkeypatch, capsys):
    about = {**_ABOUT, "package": "some_project", "config": "projects/Some/configs/a.yaml", "demo": "--video-input DIR"}
    cfg = load_config("demo/shapes_R_18.yaml", _SMALL)
    pack(str(tmp_path), "a/b", cfg, str(here[0] / "model_final.pth"), about, {"mIoU": 1.0})
    card = (tmp_path / "a" / "b" / "README.md").read_text()
    assert "python -m some_project demo --video-input DIR --model a/b" in card and "Config: `projects/Some/" in card
    monkeypatch.setenv("ADET_EXT_ZOO", str(tmp_path))
    with pytest.raises(UserError, match="a/b is a model of the project some_project; in its folder .* -m some_project"):
        model_zoo.get("a/b", trained=True)
    with pytest.raises(UserError, match="has the data of no model"):
        zoo.main(["eval", "--data", str(tmp_path)])
    assert zoo.main(["--speed"]) == 0
    assert "left out: a/b is a model of the project" in (text := capsys.readouterr().out)
    assert re.search(r"a/b .* mIoU 1.0 +-", text)
    monkeypatch.setitem(sys.modules, "some_project", sys)
    assert model_zoo.get_config("a/b", trained=True).MODEL.META_ARCHITECTURE == "BlendMask"


def test_a_record_must_be_complete(here, tmp_path):
    with pytest.raises(UserError, match="the record of a/b must say limits, license; add it"):
        about = {key: value for key, value in _ABOUT.items() if key not in ("limits", "license")}
        pack(str(tmp_path), "a/b", load_config("demo/shapes_R_18.yaml"), "x.pth", about, {})


@pytest.mark.skipif(not (_WEIGHTS / "zoo.json").is_file(), reason="needs the checkout: weights/ is not here")
def test_the_checkouts_own_zoo_is_whole_and_small(monkeypatch):
    monkeypatch.delenv("ADET_EXT_ZOO", raising=False)
    total = 0
    for name, entry in trained.list_trained().items():
        if trained.why_not(name, entry):  # its config and its model are tested in the project
            monkeypatch.setitem(sys.modules, entry["package"], sys)
        found = trained.find_trained(name)
        assert found.record["figures"] == entry["figures"] and entry["figures"]
        assert yaml.safe_load(Path(found.config).read_text())["MODEL"]["META_ARCHITECTURE"]
        assert "package" in entry or load_config(found.config).MODEL.META_ARCHITECTURE
        assert entry["bytes"] == Path(found.weights).stat().st_size <= 12e6
        assert (_WEIGHTS.parent / found.record["config"]).is_file()
        total += entry["bytes"]
    assert total <= 40e6


@pytest.mark.parametrize(
    ("kind", "file"),
    [
        ({"split": "val"}, "val.txt"),
        ({"panoptic_split": "val"}, "annotations/panoptic_val.json"),
        ({"images": "val", "annotations": "annotations/instances_val.json"}, "annotations/instances_val.json"),
    ],
)
def test_a_records_data_is_found_by_the_file_that_lists_it(kind, file, tmp_path, monkeypatch):
    record = {"name": "some_val", "folder": "some", "made_by": "prepare-some", "classes": ["one"], **kind}
    found = SimpleNamespace(record={"evaluated_on": record})
    monkeypatch.setattr(zoo_evaluation, "find_trained", lambda name: found)
    assert not zoo_evaluation.has_data("a/b", str(tmp_path))
    with pytest.raises(UserError, match=f"{re.escape(file)} is missing; make the data set by .* data prepare-some'"):
        zoo_evaluation._register(record, str(tmp_path), get_cfg())
    for folder in (tmp_path / "some", tmp_path / "plain"):
        (folder / file).parent.mkdir(parents=True)
        (folder / file).touch()
    assert zoo_evaluation.has_data("a/b", str(tmp_path)) and zoo_evaluation.has_data("a/b", str(tmp_path / "plain"))

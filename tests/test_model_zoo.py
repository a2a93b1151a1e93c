"""The configs by name, and the generated MODEL_ZOO.md."""

import importlib.util
import json
from pathlib import Path

import pytest

from adet_ext import model_zoo
from adet_ext.errors import UserError

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def generator():
    spec = importlib.util.spec_from_file_location("make_model_zoo", ROOT / "tools" / "make_model_zoo.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_listed_config_is_found_and_base_files_are_not_listed():
    names = model_zoo.list_configs()
    assert "BlendMask/R_50_1x.yaml" in names and names == sorted(names)
    assert not [name for name in names if "Base-" in name]
    for name in names:
        assert Path(model_zoo.get_config_file(name)).is_file()


def test_config_nodes_carry_the_file_s_values():
    cfg = model_zoo.get_config("BlendMask/R_50_1x.yaml")
    assert cfg.MODEL.META_ARCHITECTURE == "BlendMask" and cfg.MODEL.RESNETS.DEPTH == 50


@pytest.mark.parametrize(
    "wrong, near",
    [
        ("BlendMask/R_50_2x.yaml", "BlendMask/R_50_1x.yaml"),
        ("BlendMask/R_50_1x", "BlendMask/R_50_1x.yaml"),
        ("R_50_1x.yaml", "FCOS/R_50_1x.yaml"),
        ("FCOS-Detection/R_50_1x.yaml", "FCOS/R_50_1x.yaml"),
    ],
)
def test_wrong_names_are_answered_with_near_ones(wrong, near):
    with pytest.raises(UserError, match="did you mean") as caught:
        model_zoo.get_config_file(wrong)
    assert near in str(caught.value)


def test_a_name_like_none_of_them_is_answered_with_how_many_there_are():
    with pytest.raises(UserError, match=rf"there are {len(model_zoo.list_configs())}"):
        model_zoo.get_config_file("zzzzzz")


def test_names_do_not_lead_out_of_the_config_folder_silently(tmp_path):
    with pytest.raises(UserError, match="there is no config"):
        model_zoo.get_config_file(str(tmp_path / "nothing.yaml"))


def test_trained_weights_are_refused_plainly():
    with pytest.raises(UserError, match="no trained weights are published"):
        model_zoo.get_config("FCOS/R_50_1x.yaml", trained=True)


def test_papers_rows_name_existing_configs_and_their_overrides_load(generator):
    from adet_ext.config import load_config

    for row in generator.zoo_rows():
        path = model_zoo.get_config_file(row["config"])
        load_config(path, row.get("overrides", []))
        assert row["figures"] and row["source"] and row["data"]


def test_rows_of_one_table_differ_in_what_they_run(generator):
    seen = {}
    for row in generator.zoo_rows():
        what = (row["config"], tuple(row.get("overrides", ())), row["source"].partition(",")[0])
        assert seen.setdefault(what, row) is row, f"{what} stands for two rows"


def test_every_config_has_a_measurement_of_its_present_form(generator):
    assert generator.stale(generator.load_measured()) == [], "run make zoo"


def test_the_document_is_what_the_files_make(generator):
    text = generator.TARGET.read_text(encoding="utf-8")
    assert text == generator.render(generator.load_measured()), "run make zoo"
    for name in model_zoo.list_configs():
        assert f"](configs/{name})" in text
    assert "No trained weights are published" in text


def test_the_cached_measurement_is_what_measuring_gives(generator):
    config = "demo/shapes_R_18.yaml"
    assert generator.measure(config, ()) == generator.load_measured()[config]


def test_a_changed_base_or_override_makes_a_measurement_stale(generator, tmp_path, monkeypatch):
    monkeypatch.setattr(generator, "CONFIGS", tmp_path)
    (tmp_path / "Base-A.yaml").write_text("MODEL: {}\n")
    (tmp_path / "a.yaml").write_text('_BASE_: "Base-A.yaml"\n')
    first = generator.digest("a.yaml", ())
    assert generator.digest("a.yaml", ("X", "1")) != first
    (tmp_path / "Base-A.yaml").write_text("MODEL: {MASK_ON: True}\n")
    assert generator.digest("a.yaml", ()) != first


def test_measurement_files_of_other_forms_are_passed_over(generator, tmp_path, monkeypatch):
    monkeypatch.setattr(generator, "RESULTS", tmp_path)
    entry = {"config": "demo/shapes_R_18.yaml", "what": "AP", "value": 70.1, "command": "make demo", "machine": "m"}
    (tmp_path / "a.json").write_text(json.dumps([entry]))
    (tmp_path / "b.json").write_text(json.dumps({"rows": []}))
    assert generator.results() == [entry]
    text = generator.render(generator.load_measured())
    assert "| demo/shapes_R_18.yaml | AP | **70.1** | m | `make demo` |" in text

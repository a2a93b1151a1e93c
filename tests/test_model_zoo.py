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
def test_wrong_names_raise_with_near_ones(wrong, near):
    with pytest.raises(UserError, match="did you mean") as caught:
        model_zoo.get_config_file(wrong)
    assert near in str(caught.value)


def test_an_unknown_name_without_near_ones_gets_the_number_of_configs():
    with pytest.raises(UserError, match=rf"there are {len(model_zoo.list_configs())}"):
        model_zoo.get_config_file("zzzzzz")


def test_names_outside_of_the_config_folder_raise(tmp_path):
    with pytest.raises(UserError, match="there is no config"):
        model_zoo.get_config_file(str(tmp_path / "nothing.yaml"))


def test_the_table_of_trained_models_has_the_figures_of_the_index(generator, tmp_path, monkeypatch):
    monkeypatch.setattr(generator, "WEIGHTS", tmp_path)
    assert generator.trained_table() == []
    entry = {"figures": {"mask AP": 55.25, "box AP": 60.0}, "bytes": 9_400_000}
    record = {"task": "instances", "data": "photographs", "parameters": 4_700_000, "config": "people/blendmask.yaml"}
    (tmp_path / "zoo.json").write_text(json.dumps({"people/a": entry}))
    (tmp_path / "people" / "a").mkdir(parents=True)
    (tmp_path / "people/a/record.json").write_text(json.dumps({**record, "evaluated_on": {"name": "some_val"}}))
    row = generator.trained_table()[-1]
    assert "[people/a](weights/people/a/README.md) | instances | photographs | some_val" in row
    assert "mask AP **55.2**, box AP **60.0** | 9.4 MB, 4.7 M | [people/blendmask.yaml]" in row


def test_rows_of_the_papers_load(generator):
    from adet_ext.config import load_config

    for row in generator.zoo_rows():
        path = model_zoo.get_config_file(row["config"])
        load_config(path, row.get("overrides", []))
        assert row["figures"] and row["source"] and row["data"]


def test_rows_of_one_table_differ_in_what_they_run(generator):
    seen = {}
    for row in generator.zoo_rows():
        what = (row["config"], tuple(row.get("overrides", ())), row.get("table", "AdelaiDet"))
        assert seen.setdefault(what, row) is row, f"{what} stands for two rows"


def test_every_config_has_a_measurement_of_its_present_form(generator):
    assert generator.stale(generator.load_measured()) == [], "run make zoo"


def test_the_generated_documents_are_current(generator):
    documents = generator.documents(generator.load_measured())
    assert {path.parent.name for path in documents} == {generator.ROOT.name, "SmalMask", "BlendMask", "DR1Mask"}
    for path, text in documents.items():
        assert path.read_text(encoding="utf-8") == text, f"{path}: run make zoo"


def test_every_config_is_in_the_zoo(generator):
    text = generator.TARGET.read_text(encoding="utf-8")
    for name in model_zoo.list_configs():
        assert f"](configs/{name})" in text


def test_figures_that_two_tables_print_differently_are_both_shown(generator):
    rows = {(row["table"], row["name"]): row for row in generator.zoo_rows() if "table" in row}
    assert generator.headline(rows["4.10", "BlendMask, R-101"]) == "PQ 44.3; 44.5 in Table 5.9, on COCO test-dev"
    assert "44.3 in Table 4.10" in generator.headline(rows["5.9", "BlendMask, R-101"])
    assert generator.headline(rows["4.10", "BlendMask, R-50"]) == "PQ 42.5"


def test_a_readme_without_its_marks_is_refused(generator):
    with pytest.raises(ValueError, match="must have the lines"):
        generator.readme("# SmalMask", "3")


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


def test_other_result_files_are_skipped(generator, tmp_path, monkeypatch):
    monkeypatch.setattr(generator, "RESULTS", tmp_path)
    entry = {"config": "demo/shapes_R_18.yaml", "what": "AP", "value": 70.1, "command": "make demo", "machine": "m"}
    (tmp_path / "a.json").write_text(json.dumps([entry]))
    (tmp_path / "b.json").write_text(json.dumps({"rows": []}))
    assert generator.results() == [entry]
    text = generator.render(generator.load_measured())
    assert "| demo/shapes_R_18.yaml | AP | **70.1** | m | `make demo` |" in text

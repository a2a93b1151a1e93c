"""Every config builds, is what its name says, and every row of the thesis' tables is a config that differs."""

import os
import re
import shlex
from pathlib import Path

import pytest
import torch

from adet_ext import add_adet_config, get_cfg, load_config
from adet_ext.d2.modeling import build_model
from adet_ext.errors import UserError
from adet_ext.model_zoo import get_config_file, list_configs

ROOT = Path(get_config_file("BlendMask/R_50_1x.yaml")).parents[1]
CONFIGS = list_configs()
META = ["MODEL.DEVICE", "meta"]


def build(cfg) -> None:
    """Build on the meta device: no memory, no initialisation, no time."""
    with torch.device("meta"):
        build_model(cfg)


def rows(readme: str) -> list[list[str]]:
    """The commands of a README's table: [config, KEY, VALUE, ...]."""
    text = (ROOT / readme).read_text()
    return [shlex.split(code) for code in re.findall(r"^\| \d\.\d+ \|.*`([^`]+)` \|$", text, re.MULTILINE)]


ROWS = rows("BlendMask/README.md")


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_builds_and_writes_to_a_folder_of_its_own_name(name):
    cfg = load_config(name, META)
    assert cfg.OUTPUT_DIR == f"output/{name.removesuffix('.yaml')}"
    build(cfg)
    depth = re.search(r"(?:^|_)[RX]_(\d+)", Path(name).name)
    if depth:
        assert cfg.MODEL.RESNETS.DEPTH == int(depth[1])
        assert not cfg.MODEL.WEIGHTS or f"-{depth[1]}" in cfg.MODEL.WEIGHTS
    epochs = re.search(r"_(\d)x", Path(name).name)
    if epochs and "dcni3_5x" not in name:
        assert cfg.SOLVER.MAX_ITER == int(epochs[1]) * 90000


@pytest.mark.parametrize("row", ROWS, ids=" ".join)
def test_a_row_of_the_tables_builds(row):
    build(load_config(row[0], row[1:] + META))


def test_the_tables_have_all_their_rows_and_those_of_a_table_differ():
    text = (ROOT / "BlendMask/README.md").read_text()
    expected = {"4.1": 3, "4.2": 6, "4.3": 4, "4.4": 4, "4.5": 4, "4.6": 4, "4.7": 6, "4.8": 6, "4.9": 2}
    expected |= {"4.10": 2, "4.11": 1}
    counts = {t: len(re.findall(rf"^\| {re.escape(t)} \|", text, re.MULTILINE)) for t in expected}
    assert counts == expected
    assert len(ROWS) == sum(expected.values())
    for table, count in expected.items():
        lines = re.findall(rf"^\| {re.escape(table)} \|.*`([^`]+)` \|$", text, re.MULTILINE)
        assert len({load_config(x[0], x[1:]).dump() for x in map(shlex.split, lines)}) == count


def test_adding_the_keys_twice_changes_nothing_and_no_core_key_changes():
    cfg = get_cfg()
    before = cfg.dump()
    add_adet_config(cfg)
    assert cfg.dump() == before
    from adet_ext.d2.config import get_cfg as engine_cfg

    plain = engine_cfg()

    def same(node, ours):
        for key, value in node.items():
            same(value, ours[key]) if isinstance(value, dict) else None
            assert isinstance(value, dict) or ours[key] == value, key

    same(plain, cfg)


@pytest.mark.parametrize(
    "opts, message",
    [
        (["MODEL.FCOS.NMS_THRESH", "0.5"], "no config key MODEL.FCOS.NMS_THRESH.*did you mean MODEL.FCOS.NMS_TH\\?"),
        (["SOLVER.BASE_LR", "fast"], "SOLVER.BASE_LR takes a number, such as 0.01; got fast"),
        (["DATASETS.TEST", "mine"], r"DATASETS.TEST takes a list, such as \('coco_2017_val',\); got mine"),
        (["SOLVER.BASE_LR"], "come in pairs"),
        (["OUTPUT_DIR", "out", "--resume"], "--resume comes after OUTPUT_DIR; options stand before"),
        (["OUTPUT_DIR", "out", "--num-gpus", "2"], "--num-gpus comes after OUTPUT_DIR"),
        (["SOLVER.BASE_LR=0.1"], "SOLVER.BASE_LR=0.1 should be SOLVER.BASE_LR 0.1"),
    ],
)
def test_a_wrong_override_is_one_sentence_with_the_key(opts, message):
    with pytest.raises(UserError, match=message) as error:
        load_config("BlendMask/R_50_1x.yaml", opts)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "text, message",
    [
        ("MODEL: {FCOS: {NUM_CLASES: 3}}", "NUM_CLASES"),
        ("MODEL: [", "bad.yaml"),
        ("MODEL: {FCOS: {NUM_CLASSES: many}}", "bad.yaml"),
        ("_BASE_: nowhere.yaml", "nowhere.yaml"),
        ("- a list", "bad.yaml"),
    ],
)
def test_a_wrong_file_is_one_sentence_with_its_name(tmp_path, text, message):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=re.escape(message)) as error:
        load_config(str(path))
    assert "\n" not in str(error.value)


def test_a_yaml_file_cannot_run_code(tmp_path):
    path, trace = tmp_path / "evil.yaml", tmp_path / "trace"
    path.write_text(f"OUTPUT_DIR: !!python/object/apply:os.system ['touch {trace}']\n")
    with pytest.raises(UserError):
        load_config(str(path))
    assert not trace.exists()


@pytest.mark.skipif("ADELAIDET_CONFIGS" not in os.environ, reason="ADELAIDET_CONFIGS names no folder of configs")
def test_published_files_load_and_build_unchanged():
    root = Path(os.environ["ADELAIDET_CONFIGS"])
    files = [p for d in ("FCOS-Detection", "BlendMask") for p in (root / d).rglob("*.yaml")]
    assert len(files) > 30
    for path in files:
        cfg = load_config(str(path), META)
        if not cfg.MODEL.PANOPTIC_FPN.COMBINE.ENABLED and cfg.MODEL.META_ARCHITECTURE != "GeneralizedRCNN":
            build(cfg)

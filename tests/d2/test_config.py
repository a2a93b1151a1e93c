"""The config node: inheritance, errors, overrides, and YAML that cannot run code."""

from pathlib import Path

import pytest
import yaml

from adet_ext.d2.config import CfgNode, configurable, get_cfg
from adet_ext.d2.embedded.config import get_cfg as embedded_get_cfg


def write(folder: Path, name: str, text: str) -> str:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return str(path)


def plain(node):
    return {key: plain(value) if isinstance(value, dict) else value for key, value in node.items()}


def test_a_file_overrides_its_base_key_by_key(tmp_path):
    write(
        tmp_path,
        "base.yaml",
        "MODEL: {MASK_ON: True, FPN: {NORM: GN, OUT_CHANNELS: 64}}\nSOLVER:\n  STEPS: (1, 2)",
    )
    path = write(tmp_path, "sub/own.yaml", "_BASE_: ../base.yaml\nMODEL: {FPN: {NORM: ''}}\nVERSION: 2")
    cfg = get_cfg()
    cfg.merge_from_file(path)
    assert (cfg.MODEL.MASK_ON, cfg.MODEL.FPN.NORM, cfg.MODEL.FPN.OUT_CHANNELS) == (True, "", 64)
    assert cfg.SOLVER.STEPS == (1, 2)


def test_later_bases_win_over_earlier_ones(tmp_path):
    write(tmp_path, "one.yaml", "SEED: 1\nVIS_PERIOD: 1")
    write(tmp_path, "two.yaml", "SEED: 2")
    path = write(tmp_path, "own.yaml", "_BASE_: [one.yaml, two.yaml]")
    cfg = get_cfg()
    cfg.merge_from_file(path)
    assert (cfg.SEED, cfg.VIS_PERIOD) == (2, 1)


def test_unknown_keys_and_other_types_are_errors(tmp_path):
    with pytest.raises(KeyError, match="MODEL.FPM"):
        get_cfg().merge_from_file(write(tmp_path, "a.yaml", "MODEL: {FPM: {NORM: GN}}"))
    with pytest.raises(ValueError, match="SOLVER.MAX_ITER"):
        get_cfg().merge_from_file(write(tmp_path, "b.yaml", "SOLVER: {MAX_ITER: many}"))
    with pytest.raises(AssertionError, match="MODEL.MASK"):
        get_cfg().merge_from_list(["MODEL.MASK", True])


def test_overrides_are_read_as_literals():
    cfg = get_cfg()
    cfg.merge_from_list(["SOLVER.STEPS", "(3, 4)", "SOLVER.BASE_LR", "0.5"])
    cfg.merge_from_list(["OUTPUT_DIR", "a/b", "MODEL.MASK_ON", "True"])
    assert (cfg.SOLVER.STEPS, cfg.SOLVER.BASE_LR, cfg.OUTPUT_DIR, cfg.MODEL.MASK_ON) == (
        (3, 4),
        0.5,
        "a/b",
        True,
    )


def test_a_dump_loads_to_the_same_config(tmp_path):
    cfg = get_cfg()
    cfg.merge_from_list(["SOLVER.STEPS", (3, 4), "MODEL.RESNETS.NORM", "BN"])
    again = get_cfg()
    again.merge_from_file(write(tmp_path, "dump.yaml", cfg.dump()))
    assert yaml.safe_load(again.dump()) == yaml.safe_load(cfg.dump())
    assert again.SOLVER.STEPS == (3, 4)


def test_a_frozen_config_cannot_be_set_and_a_clone_is_apart():
    cfg = get_cfg()
    cfg.freeze()
    with pytest.raises(AttributeError):
        cfg.SEED = 1
    with pytest.raises(AttributeError):
        cfg.MODEL.MASK_ON = True
    copy = cfg.clone()
    copy.defrost()
    copy.MODEL.MASK_ON = True
    assert cfg.MODEL.MASK_ON is False and get_cfg().MODEL.MASK_ON is False


@pytest.mark.parametrize(
    "value",
    [
        "!!python/object/apply:os.system ['touch {marker}']",
        "!!python/object/apply:eval [\"open('{marker}', 'w')\"]",
        '!!python/object/apply:eval ["[x.__class__ for x in [1]]"]',
        "!!python/object/apply:eval ['9**9**9**9']",
        "!!python/name:os.system",
        "!!python/object/new:subprocess.Popen [['touch', '{marker}']]",
    ],
)
def test_yaml_never_runs_code(tmp_path, value):
    marker = tmp_path / "ran"
    path = write(tmp_path, "evil.yaml", "OUTPUT_DIR: " + value.format(marker=marker))
    with pytest.raises(ValueError, match="evil.yaml"):
        embedded_get_cfg().merge_from_file(path, allow_unsafe=True)
    assert not marker.exists()


def test_unusable_files_are_named(tmp_path):
    cfg = embedded_get_cfg()
    with pytest.raises(FileNotFoundError, match="nowhere.yaml"):
        cfg.merge_from_file(str(tmp_path / "nowhere.yaml"))
    for name, text in {"list.yaml": "- 1", "text.yaml": "MODEL: [", "old.yaml": "MODEL: {WEIGHT: a}"}.items():
        with pytest.raises(ValueError, match=name):
            cfg.merge_from_file(write(tmp_path, name, text))
    write(tmp_path, "a.yaml", "_BASE_: b.yaml")
    with pytest.raises(ValueError, match="circle.*b.yaml.*a.yaml.*b.yaml"):
        cfg.merge_from_file(write(tmp_path, "b.yaml", "_BASE_: a.yaml"))
    cfg.merge_from_file(write(tmp_path, "empty.yaml", ""))
    assert plain(cfg) == plain(embedded_get_cfg())


class Part:
    @configurable
    def __init__(self, width, *, depth=1, name="part"):
        self.values = (width, depth, name)

    @classmethod
    def from_config(cls, cfg, width=2):
        return {"width": width, "depth": cfg.SEED}


def test_configurable_takes_a_config_or_plain_arguments():
    cfg = get_cfg()
    cfg.SEED = 7
    assert Part(1).values == (1, 1, "part")
    assert Part(cfg).values == Part(cfg=cfg).values == (2, 7, "part")
    assert Part(cfg, width=3, name="other").values == (3, 7, "other")
    assert Part(cfg, depth=9).values == (2, 9, "part")

    @configurable(from_config=lambda cfg, **kwargs: {"a": cfg.SEED, **kwargs})
    def function(a, b=0):
        return a, b

    assert function(1, 2) == (1, 2)
    assert function(cfg, b=3) == (7, 3)


def test_configurable_needs_from_config():
    class Bare:
        @configurable
        def __init__(self, a):
            pass

    with pytest.raises(AttributeError, match="from_config"):
        Bare(1)


def test_nodes_take_new_keys_by_attribute():
    cfg = get_cfg()
    cfg.MODEL.OURS = CfgNode({"A": 1})
    cfg.merge_from_list(["MODEL.OURS.A", "2"])
    assert cfg.MODEL.OURS.A == 2


@pytest.mark.needs_detectron2
def test_all_keys_and_defaults_are_those_of_detectron2():
    theirs = pytest.importorskip("detectron2.config").get_cfg()
    assert plain(embedded_get_cfg()) == plain(theirs)

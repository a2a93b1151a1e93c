"""Config files and overrides as users write them: what they mean, and one sentence where they mean nothing."""

import pytest

from adet_ext import add_adet_config, get_cfg, load_config
from adet_ext.config.values import fitted
from adet_ext.d2.config import CfgNode
from adet_ext.d2.config import get_cfg as engine_cfg
from adet_ext.errors import UserError


def write(folder, content, name="a.yaml") -> str:
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(folder / name)


LAUGHS = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12))
MERGES = "a0: &a0 {k: 1}\n" + "".join(f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}]}}\n" for i in range(1, 12))


@pytest.mark.parametrize(
    "content, message",
    [
        ("_BASE_: a.yaml", r"a.yaml: _BASE_ leads back to the file itself \(a.yaml -> a.yaml\); name another base"),
        ("_BASE_: 3", "_BASE_ must be a file name; got 3"),
        ("_BASE_: .", "there is no such file"),
        ("_BASE_: " + "../x." * 200 + "yaml", r"_BASE_ names .*x\....*yaml, and there is no such file"),
        ("SEED: " + "[" * 3000, "nested too deeply"),
        ("A: " * 2 + "1", "line 1: mapping values are not allowed here"),
        ("A: " + "{B: " * 40 + "1" + "}" * 40, "nested too deeply"),
        ("A: &a [*a]", "nested too deeply"),
        (LAUGHS, "too many values"),
        (MERGES, "line 2: << must name one mapping"),
        ("SEED: 1\nSEED: 2", "line 2: the key SEED stands twice, first in line 1"),
        ("MODEL:\n  FCOS: {NORM: GN, NORM: BN}", "line 2: the key NORM stands twice"),
        ("MODEL:\n\tFCOS: {}", "line 2: a tab indents the line, and YAML takes spaces"),
        (b"SEED: 1\nOUTPUT_DIR: \xff\xe9", "line 2: the file must be UTF-8 text"),
        ("just a word", "must be KEY: VALUE lines; got just a word alone"),
        ("SEED: !!int ''", "line 1: a value is written as int and is none"),
        ("OUTPUT_DIR: !!timestamp x", "line 1: a value is written as timestamp"),
        ("OUTPUT_DIR: 2001-99-99", "line 1: a value is written as timestamp"),
        ("OUTPUT_DIR: 2001-01-01", "got the date 2001-01-01"),
        ("OUTPUT_DIR: !!python/name:os.system", "line 1: a tag that builds Python objects is never followed"),
        ("1: 2", "a key must be a text; got 1"),
        ("{a: b}: 2", "line 1: a key must be a text and is a list or a group of keys"),
        ("MODEL: 3", "MODEL must be a group of keys; got 3"),
        ("SOLVER:\n  BASE_LR:", "SOLVER.BASE_LR must be a number, such as 0.*; got nothing"),
        ("MODEL.FCOS.NORM: BN", "the key MODEL.FCOS.NORM must be nested"),
        ("'MODEL ': {}", "no config key 'MODEL '; remove the space"),
        ("VERSION: 7", "VERSION must be 2; got 7"),
        ("OUTPUT_DIR: ((((" + "(" * 5000, None),
    ],
)
def test_a_file_without_a_meaning_is_refused_by_one_sentence(tmp_path, content, message):
    path = write(tmp_path, content)
    if message is None:  # a text that is none of Python's values is a text
        assert load_config(path).OUTPUT_DIR.startswith("((((")
        return
    with pytest.raises(UserError, match=message) as error:
        load_config(path)
    assert "\n" not in str(error.value) and "a.yaml" in str(error.value) and len(str(error.value)) < 400


def test_bases_that_lead_back_over_another_file_are_refused(tmp_path):
    write(tmp_path, "_BASE_: a.yaml", "b.yaml")
    with pytest.raises(UserError, match=r"\(a.yaml -> b.yaml -> a.yaml\)"):
        load_config(write(tmp_path, "_BASE_: b.yaml"))


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_byte_order_marks_are_no_part_of_the_first_key(tmp_path, encoding):
    assert load_config(write(tmp_path, "SEED: 5\n".encode(encoding))).SEED == 5


def test_an_empty_file_changes_nothing(tmp_path):
    assert load_config(write(tmp_path, "# nothing\n")).dump() == get_cfg().dump()


def test_a_node_that_an_alias_shares_is_changed_in_one_place(tmp_path):
    write(tmp_path, "MODEL:\n  RPN: &n {NMS_THRESH: 0.6}\n  RETINANET: {PRIOR_PROB: 0.5}\n", "base.yaml")
    write(tmp_path, "SOLVER: &s {}\nTEST: *s\n", "shared.yaml")
    cfg = load_config(write(tmp_path, "_BASE_: [base.yaml, shared.yaml]\nSOLVER: {MAX_ITER: 7}\n"))
    assert cfg.SOLVER.MAX_ITER == 7 and "MAX_ITER" not in cfg.TEST and cfg.MODEL.RPN.NMS_THRESH == 0.6


@pytest.mark.parametrize(
    "key, text, value",
    [
        ("SOLVER.WEIGHT_DECAY", "0", 0.0),
        ("SOLVER.WEIGHT_DECAY", "1e-4", 1e-4),
        ("SOLVER.MAX_ITER", "1e3", 1000),
        ("SOLVER.STEPS", "[6e4, 8e4]", (60000, 80000)),
        ("SOLVER.AMP.ENABLED", "true", True),
        ("MODEL.FCOS.USE_SCALE", "false", False),
        ("INPUT.CROP.SIZE", "[384, 600]", [384, 600]),
        ("OUTPUT_DIR", "2024", "2024"),
        ("OUTPUT_DIR", "1e3", "1e3"),
    ],
)
def test_a_number_may_be_written_in_any_way(tmp_path, key, text, value):
    group, _, last = key.rpartition(".")
    nested = "".join(f"{part}: {{" for part in group.split(".") if part) + f"{last}: {text}" + "}" * key.count(".")
    for cfg in (load_config(write(tmp_path, nested)), load_config(write(tmp_path, ""), [key, text])):
        for part in key.split("."):
            cfg = cfg[part]
        assert cfg == value and type(cfg) is type(value)
        assert not isinstance(value, list) or all(type(x) is int for x in cfg)


@pytest.mark.parametrize("value", [float("inf"), 10**400, 1.5, "many", None, [1], "1" * 5000, "((" * 2000])
def test_what_is_no_whole_number_stays_as_it_is(value):
    assert fitted(3, value) is value


@pytest.mark.parametrize(
    "opts, message",
    [
        (["MODEL.FCOS.NORM.X", "1"], "no config key MODEL.FCOS.NORM.X; did you mean MODEL.FCOS.NORM"),
        (["", "1"], "no config key"),
        (["MODEL", "x"], "MODEL takes a group of keys; got x"),
        (["SOLVER.BASE_LR", "None"], "SOLVER.BASE_LR must be a number"),
        (["SOLVER.BASE_LR", "x" * 5000], "SOLVER.BASE_LR takes a number"),
        (["SOLVER.BASE_LR", "1j"], "got 1j"),
    ],
)
def test_an_override_without_a_meaning_is_refused_by_one_short_sentence(tmp_path, opts, message):
    with pytest.raises(UserError, match=message) as error:
        load_config(write(tmp_path, ""), opts)
    assert "\n" not in str(error.value) and len(str(error.value)) < 400


def test_keys_are_added_beside_another_extensions_and_a_users(monkeypatch):
    monkeypatch.setattr("adet_ext.config.load._PROJECTS", [])  # those of projects whose tests run in this process
    cfg = engine_cfg()
    cfg.MODEL.FCOS = CfgNode({"NUM_CLASSES": 7, "THEIRS": 1})
    cfg.SOLVER.OPTIMIZER = "ADAMW"
    cfg.INPUT.CROP.CROP_INSTANCE = False
    for _ in range(2):
        add_adet_config(cfg)
        assert cfg.MODEL.FCOS.NUM_CLASSES == 7 and cfg.MODEL.FCOS.THEIRS == 1
        assert cfg.SOLVER.OPTIMIZER == "ADAMW" and cfg.INPUT.CROP.CROP_INSTANCE is False

    def missing(node, there, prefix=""):
        for key, value in node.items():
            if key not in there:
                yield prefix + key
            elif isinstance(value, CfgNode):
                yield from missing(value, there[key], f"{prefix}{key}.")

    assert not list(missing(get_cfg(), cfg))


def test_a_project_s_keys_are_known_once_it_is_imported(tmp_path, monkeypatch):
    from adet_ext.config import add_missing, add_project_keys, load
    from adet_ext.d2.config import CfgNode

    def add_keys(cfg):
        add_missing(cfg, CfgNode({"MODEL": {"PROJECT": {"SIZE": 3}}}))

    monkeypatch.setattr(load, "_PROJECTS", [])
    path = write(tmp_path, "MODEL: {PROJECT: {SIZE: 5}}")
    with pytest.raises(UserError, match="no config key MODEL.PROJECT"):
        load_config(path)
    add_project_keys(add_keys)
    add_project_keys(add_keys)
    assert load._PROJECTS == [add_keys]
    assert load_config(path).MODEL.PROJECT.SIZE == 5


def test_a_project_s_file_is_sent_to_the_project(tmp_path):
    project = tmp_path / "Fine"
    for folder in ("configs/small", "fine_models", "tests"):
        (project / folder).mkdir(parents=True)
    for name in ("train_net.py", "fine_models/__init__.py", "tests/__init__.py"):
        (project / name).touch()
    file = project / "configs" / "small" / "a.yaml"
    file.write_text("MODEL: {FINE: {WIDTH: 1}}")
    with pytest.raises(UserError, match=r"key MODEL.FINE here; .* 'python -m fine_models VERB' or .* in .*Fine"):
        load_config(str(file))
    (project / "train_net.py").unlink()
    with pytest.raises(UserError, match="no config key MODEL.FINE;"):
        load_config(str(file))

"""Fuzz config files and overrides: each loads, or is refused by one sentence in words of a user.

``python -m tests.fuzz.fuzz_configs 2000`` prints how many came to which end. A sample is its seed.
"""

import collections
import functools
import os
import random
import re
import shutil
import sys
import warnings
from pathlib import Path

import torch
import yaml

from adet_ext.config import get_cfg, load_config
from adet_ext.config.errors import flat_keys
from adet_ext.d2.modeling import build_model
from adet_ext.errors import UserError
from adet_ext.model_zoo import config_folder

from .harness import main, quiet_folder, run_samples

_NASTY = [
    0, -1, 1, 3, 2**31, 2**63, 10**20, 10**400, 0.5, -0.0, 1e308, float("nan"), float("inf"), True, False, None, "",
    "1e-4", "1e3", "6e9", "true", "None", "GN", "a b", "x" * 5000, "((((" * 500, "1" * 5000, "\ud800", "\x00", "é", "[",
    "{}", "{'a': 1}", "1j", "b'x'", "(1, 2", "lambda: 0", [], {}, [[]], [1, "a", None], [1e400], {"A": {"B": 1}},
    {"": 0},
]  # fmt: skip
_LINES = [
    "\tX: 1", "MODEL: 3", "MODEL:", "- 1", "---", "...", "a: &a [*a]", "<<: *x", "<<: {A: 1}", "_BASE_: [a, 3]",
    "_BASE_: .", "_BASE_: fuzzed.yaml", "_BASE_: {}", "_BASE_: [fuzzed.yaml]", "OUTPUT_DIR: !!python/name:os.system",
    "OUTPUT_DIR: !!int ''", "OUTPUT_DIR: !!bool x", "OUTPUT_DIR: !!timestamp x", "OUTPUT_DIR: !!binary x",
    "OUTPUT_DIR: 2001-99-99", "OUTPUT_DIR: 2001-01-01", "OUTPUT_DIR: !!set {a}", "OUTPUT_DIR: 1:30", "OUTPUT_DIR: 0x",
    "VERSION: x", "VERSION: 1", "VERSION: -5", "VERSION: [2]", "VERSION: 3", "1: 2", "null: 2", "[1]: 2", "{a: b}: 2",
    "? x", "MODEL.FCOS.NORM: GN", "SEED: " + "9" * 5000, "SEED: " + "[" * 2000, "SEED: " + "{a: " * 500, "'", "%YAML 9",
    "MODEL: {WEIGHT: x}", "TEST: {AUG_ON: 1}", "TEST: 1e400", "SOLVER: &s {BASE_LR: 1e-4}", "__immutable__: 1",
]  # fmt: skip
_INTERNALS = re.compile(
    r"NoneType|recursion|Traceback|object has no|not iterable|<class|not supported between|unhashable|CfgNode"
    r"|MemoryError|groupdict|subscriptable|indices must be|out of range|takes \d+ positional|codec|0x[0-9a-f]{8}",
)


@functools.cache
def _defaults() -> dict:
    return {key: functools.reduce(dict.__getitem__, key.split("."), get_cfg()) for key in flat_keys(get_cfg())}


@functools.cache
def _keys() -> list[str]:
    return list(_defaults())


def _value(rng: random.Random, key: str) -> object:
    """Return a value that fits the key, one near it, or any."""
    default = _defaults().get(key)
    kind = rng.randrange(4)
    if kind == 0 or isinstance(default, dict):
        return rng.choice(_NASTY)
    if kind == 1:
        return default if isinstance(default, bool) else str(default)
    if isinstance(default, bool):
        return rng.choice([True, False, "true", 1])
    if isinstance(default, (int, float)):
        return rng.choice([0, 1, -1, default * 2, default / 2, -default, f"{default:e}", 10**6])
    if isinstance(default, (list, tuple)):
        return rng.choice([[], list(default) * 2, list(default)[1:], [str(x) for x in default], [[x] for x in default]])
    return rng.choice(["GN", "BN", "", "none", 7, "7", default])


@functools.cache
def _files() -> list[Path]:
    return sorted(p for p in config_folder().rglob("*.yaml") if "studies" not in p.parts)


def _mutate_bytes(rng: random.Random, content: bytes) -> bytes:
    data = bytearray(content)
    for _ in range(rng.choice([1, 1, 2, 5, 30])):
        at = rng.randrange(len(data) + 1)
        kind = rng.randrange(4)
        if kind == 0:
            data[at : at + 1] = bytes([rng.randrange(256)])
        elif kind == 1:
            data[at:at] = rng.choice(
                [b"\xef\xbb\xbf", b"\x00", b"\t", b"'", b'"', b"[", b"{", b"*", b"&a ", b": ", b"\r"]
            )
        elif kind == 2:
            del data[at : at + rng.randint(1, 20)]
        else:
            data[at:at] = data[at : at + rng.randint(1, 40)] * rng.choice([1, 2, 50])
    return bytes(data)


def _mutate_lines(rng: random.Random, content: bytes) -> bytes:
    lines = content.decode().split("\n")
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(lines))
        kind = rng.randrange(5)
        if kind == 0:
            lines.insert(at, rng.choice(_LINES))
        elif kind == 1:
            lines.insert(at, lines[rng.randrange(len(lines))])
        elif kind == 2:
            lines[at] = rng.choice([" ", "  ", "\t", "- "]) + lines[at]
        elif kind == 3:
            lines[at] = lines[at].lstrip()
        elif len(lines) > 1:
            del lines[at]
    return "\n".join(lines).encode("utf-8", "surrogatepass")


def _mutate_tree(rng: random.Random, content: bytes) -> bytes:
    values = yaml.safe_load(content)
    for _ in range(rng.randint(1, 3)):
        node, keys = values, rng.choice(_keys()).split(".")
        if rng.random() < 0.5 and flat_keys(values):
            keys = rng.choice(flat_keys(values)).split(".")
        for key in keys[:-1]:
            if not isinstance(node.get(key), dict):
                node[key] = {}
            node = node[key]
        kind, last = rng.randrange(4), keys[-1]
        if kind == 0:
            node[last + rng.choice(["S", "_", " ", ".X", "\n"])] = node.pop(last, 1)
        elif kind == 1 and isinstance(node.get(last), dict):
            values.update(node[last])
        else:
            node[last] = _value(rng, ".".join(keys))
    return yaml.safe_dump(values, allow_unicode=rng.random() < 0.5).encode("utf-8", "surrogatepass")


def _overrides(rng: random.Random) -> list:
    opts = []
    for _ in range(rng.randint(1, 3)):
        key = rng.choice(_keys())
        if rng.random() < 0.15:
            key = rng.choice(
                ["", ".", key + ".X", key + ".", key.lower(), key[1:], key + "=1", "--x", "_BASE_", "MODEL"]
            )
        value = _value(rng, key)
        opts += [key, value if rng.random() < 0.3 else str(value)]
    return opts[: len(opts) - (rng.random() < 0.1)]


def check(seed: int, folder: str) -> tuple[str, str]:
    """Return the class and details of the config that ``seed`` makes."""
    rng = random.Random(seed)
    small = [p for p in _files() if p.parent.name == "demo"]
    source = rng.choice(small if rng.random() < 0.5 else _files())
    path = os.path.join(folder, source.parent.relative_to(config_folder()), "fuzzed.yaml")
    kind = rng.randrange(4)
    content, opts = source.read_bytes(), []
    if kind == 3:
        opts = _overrides(rng)
    else:
        content = [_mutate_bytes, _mutate_lines, _mutate_tree][kind](rng, content)
    with open(path, "wb") as file:
        file.write(content)
    details = f"{source.name} {opts} {content[:3000]!r}"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            cfg = load_config(path, opts)
    except UserError as error:
        text = str(error)
        # What a file holds may itself read as Python's words; none of the texts above does.
        if "\n" in text or _INTERNALS.search(text):
            return "FAULT: sentence", f"{text}\n{details}"
        return ("FAULT: long sentence", f"{text}\n{details}") if len(text) > 600 else ("refused", "")
    cfg.dump()
    if source not in small or rng.random() < 0.8 or kind == 0:
        return "accepted", ""
    with torch.device("meta"):
        cfg.MODEL.DEVICE = "meta"
        try:
            build_model(cfg)
        except (UserError, ValueError, KeyError, AssertionError, RuntimeError, NotImplementedError):
            return "accepted, the model refuses a value", ""
        except (TypeError, AttributeError, IndexError, ZeroDivisionError, OverflowError) as error:
            return f"accepted, building ends in {type(error).__name__}", details
    return "accepted, built", ""


def run(n: int, seed: int = 0) -> tuple[collections.Counter, list]:
    """Check ``n`` configs and return the counts of the classes, and the faults."""
    with quiet_folder() as folder:
        shutil.copytree(config_folder(), folder, dirs_exist_ok=True)
        _keys(), _files()
        return run_samples(functools.partial(check, folder=folder), range(seed, seed + n))


if __name__ == "__main__":
    sys.exit(main(run, 2000))

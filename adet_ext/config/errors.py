"""What is wrong with a config file or an override, in one sentence."""

import difflib
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..d2.config import CfgNode as CN
from ..errors import UserError

__all__ = ["check_overrides", "explained", "flat_keys", "kind_of", "shortened"]

_MISMATCH = re.compile(
    r"Type mismatch \(<class '[\w.]*?(\w+)'> vs\. <class '[\w.]+'>\) with values \((.*) vs\. (.*)\) "
    r"for config key: ([\w.]+)",
    re.S,
)
_KINDS = {
    "int": "a whole number", "float": "a number", "bool": "True or False", "str": "a text", "list": "a list",
    "tuple": "a list", "NoneType": "a value", "CfgNode": "a group of keys", "dict": "a group of keys", "set": "a set",
    "bytes": "bytes", "complex": "a complex number",
}  # fmt: skip


def check_overrides(cfg: CN, opts: Sequence[str]) -> None:
    """Refuse overrides that are no KEY VALUE KEY VALUE ..., by what they seem to be instead.

    Raises:
        UserError: an option among them, KEY=VALUE, a key without a value, or a key that does not exist.
    """
    for word in opts:
        # argparse hands on everything from the first override, so that options after it look like keys.
        if re.match(r"--[a-z]", str(word)):
            raise UserError(f"{word} comes after {opts[0]}; options stand before the first config override KEY VALUE")
    known = set(flat_keys(cfg))
    for key in map(str, opts[0::2]):
        if key.partition("=")[0] in known and "=" in key:
            raise UserError(
                f"{key} should be {' '.join(key.split('=', 1))}: config overrides are KEY VALUE KEY VALUE ..."
            )
    if len(opts) % 2:
        words = shortened(" ".join(map(str, opts)))
        raise UserError(f"config overrides come in pairs KEY VALUE; got {len(opts)} words: {words}")
    for key, value in zip(opts[0::2], opts[1::2]):
        if key not in known:
            raise UserError(f"the command line ({shortened(f'{key} {value}')}): {_no_such_key(cfg, str(key))}")


def kind_of(default: Any) -> str:
    """Return what a key with this default takes, as "a number, such as 0.01"."""
    name = "CfgNode" if isinstance(default, CN) else type(default).__name__
    kind = _KINDS.get(name, name)
    return kind if isinstance(default, CN) or default is None else f"{kind}, such as {shortened(default)}"


def shortened(value: Any) -> str:
    """Return a value as a text of one line and at most 80 characters."""
    text = " ".join(str(value).split()).encode("utf-8", "backslashreplace").decode() or repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


class explained:
    """Turns what a config node raises into a UserError that names the place and the nearest key."""

    def __init__(self, cfg: CN, where: str):
        self.cfg, self.where = cfg, where

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind, error, traceback) -> bool:
        if error is None or isinstance(error, UserError) or not isinstance(error, Exception):
            return False
        # A KeyError's own text is quoted.
        text = str(error.args[0] if isinstance(error, KeyError) and error.args else error) or kind.__name__
        key = re.search(r"[Nn]on-existent(?: config)? key: (.+)", text, re.S)
        if key:
            package = _project_of(self.where)
            text = _no_such_key(self.cfg, key[1]) if package is None else _key_of_project(key[1], package)
        elif mismatch := _MISMATCH.match(text):
            kind_of_value, default, given, name = mismatch.groups()
            kind, such_as = _KINDS.get(kind_of_value, kind_of_value), f", such as {shortened(default)}"
            text = f"{name} takes {kind}{such_as if kind_of_value != 'CfgNode' else ''}; got {shortened(given)}"
        elif isinstance(error, (RecursionError, MemoryError)):
            text = "a value is nested too deeply; correct it"
        raise UserError(f"{self.where}: {' '.join(text.split())}") from error


def _project_of(path: str) -> Path | None:
    """Return the package of the project that a config file lies in, where this process has not imported it."""
    for folder in Path(path).resolve().parents:
        if folder.name == "configs":
            packages = [init.parent for init in folder.parent.glob("*/__init__.py") if init.parent.name != "tests"]
            if len(packages) == 1 and (folder.parent / "train_net.py").is_file():
                return None if packages[0].name in sys.modules else packages[0]
    return None


def _key_of_project(key: str, package: Path) -> str:
    return (
        f"there is no config key {shortened(key)} here; the file belongs to a project, so run "
        f"'python -m {package.name} VERB' or 'python train_net.py' in {package.parent}"
    )


def _no_such_key(cfg: CN, key: str) -> str:
    if key != key.strip():
        return f"there is no config key {key!r:.80}; remove the space"
    near = difflib.get_close_matches(key[:200], sorted(flat_keys(cfg)), n=1, cutoff=0.6)
    return f"there is no config key {shortened(key)}" + (f"; did you mean {near[0]}?" if near else "")


def flat_keys(node: dict, prefix: str = "") -> list[str]:
    """Return all keys of nested nodes, groups before their members: ["MODEL", "MODEL.DEVICE", ...]."""
    keys = []
    for name, value in node.items():
        keys.append(prefix + name)
        if isinstance(value, dict):
            keys += flat_keys(value, prefix + name + ".")
    return keys

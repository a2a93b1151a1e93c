"""What is wrong with a config file or an override, in one sentence."""

import difflib
import re
from collections.abc import Sequence

from ..d2.config import CfgNode as CN
from ..errors import UserError

__all__ = ["check_overrides", "explained"]

_MISMATCH = re.compile(
    r"Type mismatch \(<class '(\w+)'> vs\. <class '\w+'>\) with values \((.*) vs\. (.*)\) for config key: ([\w.]+)",
    re.S,
)
_KINDS = {
    "int": "a whole number", "float": "a number", "bool": "True or False", "str": "a text", "list": "a list",
    "tuple": "a list",
}  # fmt: skip


def check_overrides(cfg: CN, opts: Sequence[str]) -> None:
    """Refuse overrides that are no KEY VALUE KEY VALUE ..., by what they seem to be instead.

    Raises:
        UserError: an option among them, KEY=VALUE, or a key without a value.
    """
    for word in opts:
        # argparse hands on everything from the first override, so that options after it look like keys.
        if re.match(r"--[a-z]", str(word)):
            raise UserError(f"{word} comes after {opts[0]}; options stand before the first config override KEY VALUE")
    for key in opts[0::2]:
        if "=" in key and key.partition("=")[0] in _flat_keys(cfg):
            raise UserError(
                f"{key} should be {' '.join(key.split('=', 1))}: config overrides are KEY VALUE KEY VALUE ..."
            )
    if len(opts) % 2:
        raise UserError(f"config overrides come in pairs KEY VALUE; got {len(opts)} words: {' '.join(opts)}")


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
        key = re.search(r"[Nn]on-existent(?: config)? key: ([\w.]+)", text)
        if key:
            known = sorted(_flat_keys(self.cfg))
            near = difflib.get_close_matches(key[1], known, n=1, cutoff=0.6)
            hint = f"; did you mean {near[0]}?" if near else ""
            text = f"there is no config key {key[1]}{hint}"
        elif mismatch := _MISMATCH.match(text):
            kind_of_value, default, given, name = mismatch.groups()
            text = f"{name} takes {_KINDS.get(kind_of_value, kind_of_value)}, such as {default}; got {given}"
        raise UserError(f"{self.where}: {' '.join(text.split())}") from error


def _flat_keys(node: CN, prefix: str = "") -> list[str]:
    keys = []
    for name, value in node.items():
        keys.append(prefix + name)
        if isinstance(value, CN):
            keys += _flat_keys(value, prefix + name + ".")
    return keys

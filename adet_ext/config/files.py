"""Read YAML config files with their ``_BASE_``, with errors that name the file and the line."""

import os
import re
from typing import Any

import yaml

from ..errors import UserError
from .errors import shortened

__all__ = ["read_config_file"]

_DEEPEST = 20  # levels of nesting, and files in a chain of bases; Detectron2's own configs have 5
_LONGEST = 250_000  # bytes, and values after aliases are expanded

_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\ud800-\udfff]")


class _Loader(yaml.SafeLoader):
    """Safe YAML in which a key that stands twice is an error, as the first value would be lost."""

    def compose_mapping_node(self, anchor: str | None) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen: dict[str, int] = {}
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    problem = f"the key {key.value} stands twice, first in line {seen[key.value]}"
                    raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
                seen[key.value] = key.start_mark.line + 1
        return node

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        for key, value in node.value:
            # A merge of many merges, over and over, would take all memory.
            if key.tag == "tag:yaml.org,2002:merge" and isinstance(value, yaml.SequenceNode) and len(value.value) > 1:
                raise yaml.MarkedYAMLError(problem="<< must name one mapping", problem_mark=key.start_mark)
        super().flatten_mapping(node)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, TypeError, AttributeError, LookupError, OverflowError) as error:
            kind = node.tag.rpartition(":")[2]
            problem = f"a value is written as {kind} and is none; put it in quotes"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark) from error


_Loader.add_constructor(
    "tag:yaml.org,2002:python/tuple", lambda loader, node: tuple(loader.construct_sequence(node, deep=True))
)


def read_config_file(path: str, _above: tuple[str, ...] = ()) -> dict:
    """Return the nested values of a YAML file, over those of the file that its ``_BASE_`` names.

    Raises:
        UserError: a file is missing, not a YAML mapping, nested too deeply, or its own base; with file and line.
    """
    real = os.path.realpath(path)
    if len(_above) > _DEEPEST:
        raise UserError(f"{path}: the chain of _BASE_ must have at most {_DEEPEST} files; name a nearer base")
    if real in _above:
        chain = " -> ".join(os.path.basename(p) for p in (*_above[_above.index(real) :], real))
        raise UserError(f"{path}: _BASE_ leads back to the file itself ({chain}); name another base")
    values = _parse(path)
    base = values.pop("_BASE_", None)
    if base is None:
        return values
    bases = base if isinstance(base, list) else [base]
    merged: dict = {}
    for name in bases:
        if not isinstance(name, str) or not name:
            raise UserError(f"{path}: _BASE_ must be a file name; got {name!r:.80}")
        name = os.path.expanduser(name)
        if "://" not in name and not os.path.isabs(name):
            name = os.path.join(os.path.dirname(path), name)
        if not os.path.isfile(name):
            shown = name if len(name) <= 200 else f"{name[:98]}...{name[-99:]}"
            raise UserError(f"{path}: _BASE_ names {shown}, and there is no such file; correct the path")
        _merge(read_config_file(name, (*_above, real)), merged, name)
    _merge(values, merged, path)
    return merged


def _parse(path: str) -> dict:
    try:
        with open(path, "rb") as file:
            content = file.read(_LONGEST + 1)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from error
    if len(content) > _LONGEST:
        raise UserError(f"{path}: a config must be smaller than {_LONGEST} bytes; check that it is the right file")
    try:
        text = content.decode("utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise UserError(f"{path}, line {line}: the file must be UTF-8 text; save it as UTF-8") from error
    try:
        values = yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise UserError(f"{path}{_place(error)}: {_problem(error)}; correct the YAML") from error
    except RecursionError as error:
        raise UserError(f"{path}: it is nested too deeply for a config; check that it is the right file") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise UserError(f"{path}: a config must be KEY: VALUE lines; got {shortened(values)} alone")
    _check_size(values, path)
    return values


def _check_size(values: Any, path: str) -> None:
    """Refuse what aliases multiply or nest beyond measure, and keys that are no texts."""
    stack, count = [(values, 1)], 0
    while stack:
        value, depth = stack.pop()
        count += 1
        if depth > _DEEPEST or count > _LONGEST:
            raise UserError(f"{path}: it is nested too deeply, or expands to too many values, for a config")
        if isinstance(value, dict):
            for key, item in value.items():
                if not isinstance(key, str) or not key.isprintable():
                    raise UserError(f"{path}: a key must be a text; got {key!r:.80}. Put it in quotes or correct it")
                stack.append((item, depth + 1))
        elif isinstance(value, (list, tuple)):
            if count + len(stack) + len(value) > _LONGEST:
                raise UserError(f"{path}: it expands to too many values for a config")
            stack.extend((item, depth + 1) for item in value)
        elif not isinstance(value, (str, int, float, type(None))):
            kind = type(value).__name__
            got = f"the {kind} {shortened(value)}"
            raise UserError(f"{path}: a value must be a number, a text, a list, true or false; got {got}. Quote it")
        elif isinstance(value, str) and not value.isprintable() and _UNPRINTABLE.search(value):
            raise UserError(f"{path}: a text must be printable; got {value!r:.80}. Correct it")


def _merge(values: dict, target: dict, path: str, prefix: str = "") -> None:
    """Put ``values`` over ``target``, node by node, as fvcore does. No node is shared with ``values``."""
    for key, value in values.items():
        if isinstance(value, dict):
            node = target.setdefault(key, {})
            if not isinstance(node, dict):
                raise UserError(f"{path}: {prefix}{key} must be a single value as in _BASE_; got a group of keys")
            _merge(value, node, path, f"{prefix}{key}.")
        else:
            target[key] = value


def _place(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    return f", line {mark.line + 1}" if mark else ""


def _problem(error: yaml.YAMLError) -> str:
    if "cannot start any token" in str(error) and "'\\t'" in str(error):
        return "a tab indents the line, and YAML takes spaces"
    if "python/" in str(error):
        return "a tag that builds Python objects is never followed; write the value out"
    if "unhashable key" in str(error):
        return "a key must be a text and is a list or a group of keys"
    return shortened(getattr(error, "problem", None) or str(error).partition("\n")[0])

"""Genotypes in JSON files: what the projects' readers and writers have in common, and its errors."""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from ..errors import UserError
from .files import make_folder, written_beside

__all__ = ["check_keys", "check_one_of", "entries_of", "load_kind", "pair_of", "pick"]
__all__ += ["read_genotype", "shortened", "write_genotype"]

Genotype = TypeVar("Genotype")


def read_genotype(name: str, shipped: Path) -> tuple[Path, dict[str, Any]]:
    """Return the path and the value of a genotype: the name of one in the folder ``shipped``, or a JSON file's path.

    Raises:
        UserError: no such name or file, or it holds no JSON object.
    """
    known = sorted(path.stem for path in shipped.glob("*.json"))
    path = shipped / f"{name}.json" if name in known else Path(name)
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        names = ", ".join(known)
        raise UserError(f"a genotype must be a JSON file or one of {names}; got {name!r}. Correct the name") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} must be JSON; {' '.join(str(error).split())}. Correct the file") from error
    return path, value if isinstance(value, dict) else {}


def load_kind(name: str, shipped: Path, kinds: Mapping[str, Callable[[dict[str, Any]], Genotype]]) -> Genotype:
    """Return the genotype of a name or a file, see :func:`read_genotype`.

    Args:
        kinds: what makes a genotype of a JSON object, by the object's "kind".

    Raises:
        UserError: no such name or file, or it holds no genotype of these kinds.
    """
    path, value = read_genotype(name, shipped)
    kind = value.get("kind")
    if not isinstance(kind, str) or kind not in kinds:
        raise UserError(f"{path}: kind must be {' or '.join(kinds)}; got {shortened(kind)}. Name another file")
    try:
        return kinds[kind](value)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def write_genotype(value: dict[str, Any], path: str | os.PathLike) -> None:
    """Write a genotype as JSON, beside its place first."""
    make_folder(os.path.dirname(str(path)))
    with written_beside(str(path)) as beside:
        Path(beside).write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


def entries_of(value: Any, key: str, what: str) -> list:
    """Return the list ``key`` of ``what``; raise UserError where there is none or nothing in it."""
    entries = value.get(key) if isinstance(value, dict) else None
    if not isinstance(entries, list) or not entries:
        raise UserError(f"{what} must have a list of {key}; got {shortened(entries)}")
    return entries


def check_keys(where: str, entry: Any, *keys: str) -> None:
    """Raise UserError where an entry does not have exactly these keys."""
    if not isinstance(entry, dict) or set(entry) != set(keys):
        raise UserError(f"{where} must have {', '.join(keys[:-1])} and {keys[-1]}; got {shortened(entry)}")


def pair_of(where: str, name: str, value: Any) -> tuple[str, str]:
    """Return two names as a tuple; raise UserError where they are none."""
    if not isinstance(value, list) or len(value) != 2 or not all(isinstance(item, str) for item in value):
        raise UserError(f"{where}: {name} must be two names; got {shortened(value)}")
    return tuple(value)


def pick(what: str, choices: Sequence[str], number: int) -> str:
    """Return a choice by its number; raise UserError where there is none."""
    if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number < len(choices):
        raise UserError(f"{what} must be 0 to {len(choices) - 1}; got {shortened(number)}")
    return choices[number]


def check_one_of(what: str, value: Any, choices: Sequence[str]) -> None:
    """Raise UserError where a value is none of the choices."""
    if not isinstance(value, str) or value not in choices:
        raise UserError(f"{what} must be one of {', '.join(choices)}; got {shortened(value)}")


def shortened(value: Any) -> str:
    """Return a value for an error, 60 characters at most."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."

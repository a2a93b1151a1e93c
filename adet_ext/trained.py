"""Trained checkpoints: which there are, and their files, checked by their hashes.

A zoo is a folder, or an address of one, with an index ``zoo.json`` and a folder for each model::

    zoo.json                     {"people/blendmask": {"task", "data", "figures", ..., "files": {name: SHA-256}}}
                                 and "package", the package of a project whose model it is
    people/blendmask/            model.safetensors, config.yaml, record.json, README.md

It is ``weights/`` of a checkout, or what the environment variable ADET_EXT_ZOO names. Files at an address are fetched
once, into iopath's cache, so a zoo that changes needs another address. Nothing in a zoo can run code: weights are
safetensors, the rest is JSON and YAML without tags.
"""

import difflib
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from .d2.utils import PathManager
from .errors import UserError, one_line
from .utils.files import sha256_of

__all__ = ["FILES", "INDEX", "Trained", "find_trained", "list_trained", "why_not", "zoo_place"]

INDEX = "zoo.json"
FILES = ("model.safetensors", "config.yaml", "record.json")
_CHECKOUT = Path(__file__).resolve().parent.parent / "weights"


class Trained(NamedTuple):
    """A trained model's files on this machine, and what is on record about it."""

    name: str
    weights: str
    config: str
    record: dict[str, Any]


def zoo_place() -> str:
    """Return the folder or address of the zoo.

    Raises:
        UserError: there is none.
    """
    chosen = os.environ.get("ADET_EXT_ZOO", "").rstrip("/")
    place = chosen or str(_CHECKOUT)
    if "://" not in place and not os.path.isfile(os.path.join(os.path.expanduser(place), INDEX)):
        why = f"it has no {INDEX}" if chosen else "they are not part of the installed package"
        raise UserError(
            f"there are no trained checkpoints in {place}, because {why}; set ADET_EXT_ZOO to the folder weights/ of a "
            "checkout, or to the address of a zoo"
        )
    return place if "://" in place else os.path.expanduser(place)


def list_trained() -> dict[str, dict[str, Any]]:
    """Return the entries of the zoo's index by their names.

    Raises:
        UserError: there is no zoo, it cannot be reached, or its index is not one.
    """
    path = _local(zoo_place(), INDEX)
    try:
        index = json.loads(Path(path).read_text(encoding="utf-8"))
        for name, entry in index.items():
            _check_entry(name, entry)
    except (OSError, ValueError, AttributeError, TypeError, KeyError) as error:
        raise UserError(f"{path} is not the index of a zoo: {one_line(error)}; restore the file") from error
    return index


def _check_entry(name: str, entry: dict[str, Any]) -> None:
    """Refuse names that would lead out of the zoo, and entries without hashes."""
    if not name or any(part in ("", ".", "..") or "\\" in part or ":" in part for part in name.split("/")):
        raise ValueError(f"{name!r} cannot be the name of a model")
    for file in FILES:
        if len(entry["files"][file]) != 64:
            raise ValueError(f"{name} has no SHA-256 of {file}")


def find_trained(name: str) -> Trained:
    """Return the files of a trained model, fetched if the zoo is an address.

    Raises:
        UserError: there is no such model, its project has not been imported, or a file is missing, cut off or altered.
    """
    index = list_trained()
    name = name.removesuffix(".yaml")
    if name not in index:
        near = difflib.get_close_matches(name, index, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(index)}"
        raise UserError(f"there is no trained model {name!r} in {zoo_place()}; {hint}")
    if reason := why_not(name, index[name]):
        raise UserError(reason)
    place, digests = zoo_place(), index[name]["files"]
    weights, config, record = (_checked(_local(place, f"{name}/{file}"), digests[file]) for file in FILES)
    return Trained(name, weights, config, json.loads(Path(record).read_text(encoding="utf-8")))


def why_not(name: str, entry: Mapping[str, Any]) -> str | None:
    """Return why a model of the index cannot be built: its project has not been imported. None if it can.

    A project is not imported here, because a zoo must not choose what code runs.
    """
    package = entry.get("package", "adet_ext")
    if package in sys.modules:
        return None
    return (
        f"{name} is a model of the project {package}; in its folder below projects/, write python -m {package} in "
        f"place of python -m adet_ext, or import {package} first"
    )


def _checked(path: str, digest: str) -> str:
    if not os.path.isfile(path):
        raise UserError(f"{path} of the zoo is missing; restore it")
    found = sha256_of(path)
    if found != digest:
        raise UserError(
            f"{path} is not the file that the zoo's index names: its SHA-256 must begin with {digest[:12]}; got "
            f"{found[:12]}. It is cut off or altered; delete it, and fetch or restore it"
        )
    return path


def _local(place: str, file: str) -> str:
    """Return the path of a zoo's file on this machine."""
    if "://" not in place:
        return os.path.join(place, *file.split("/"))
    address = f"{place}/{file}"
    try:
        return PathManager.get_local_path(address)
    except Exception as error:  # handlers raise errors of different types
        raise UserError(f"{address} cannot be fetched ({one_line(error)}); check ADET_EXT_ZOO") from error

"""What loading a checkpoint did, module by module."""

import logging
from collections import Counter
from collections.abc import Iterable
from typing import Any

from torch import nn

__all__ = ["load_report"]

_SHOWN = 8  # modules in a line


def _module(name: str) -> str:
    """Return what a tensor is counted under: the first two parts of its module's name."""
    return ".".join(name.split(".")[:-1][:2]) or name


def load_report(model: nn.Module, incompatible: Any) -> list[tuple[int, str]]:
    """Return log levels and lines on what was loaded, what the file does not have, and what of the file was left out.

    Args:
        incompatible: fvcore's record of the keys that did not fit.
    """
    names = [name for name in model.state_dict() if not name.endswith("num_batches_tracked")]  # of no consequence
    misshapen = {item[0]: item[1:] for item in incompatible.incorrect_shapes}
    missing = [name for name in names if name in set(incompatible.missing_keys) and name not in misshapen]
    lacking = {*missing, *misshapen}
    loaded = Counter(_module(name) for name in names if name not in lacking)
    sizes = Counter(_module(name) for name in names)
    whole = [f"{module} ({count})" for module, count in loaded.items() if count == sizes[module]]
    parts = [f"{module} ({count} of {sizes[module]})" for module, count in loaded.items() if count < sizes[module]]
    found = f"loaded {sum(loaded.values())} of the model's {len(names)} tensors: {_list([*parts, *whole])}"
    lines = [(logging.INFO, found)]
    if missing:
        lines.append((logging.WARNING, f"not in the file, left as they were: {_by_module(missing)}"))
    if misshapen:
        shapes = [f"{name} {tuple(theirs)}, here {tuple(ours)}" for name, (theirs, ours) in misshapen.items()]
        lines.append((logging.WARNING, f"of another shape in the file, left as they were: {_list(shapes, '; ')}"))
    if incompatible.unexpected_keys:
        lines.append((logging.WARNING, f"in the file alone, left out: {_by_module(incompatible.unexpected_keys)}"))
    return lines


def _by_module(names: Iterable[str]) -> str:
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(_module(name), []).append(name)
    return _list([f"{module} ({len(group)})" if len(group) > 1 else group[0] for module, group in groups.items()])


def _list(items: list[str], separator: str = ", ") -> str:
    more = f"{separator}and {len(items) - _SHOWN} more" if len(items) > _SHOWN else ""
    return (separator.join(items[:_SHOWN]) or "none") + more

"""What loading a checkpoint did, module by module."""

from collections import Counter
from collections.abc import Iterable
from typing import Any

from torch import nn

__all__ = ["load_report", "modules_of"]

_SHOWN = 8  # modules in a line


def modules_of(names: Iterable[str], depth: int = 2) -> Counter:
    """Return how many of the tensors ``names`` each module has; a module is named by its first ``depth`` parts."""
    return Counter(".".join(name.split(".")[:-1][:depth]) or name for name in names)


def load_report(model: nn.Module, incompatible: Any) -> list[str]:
    """Return lines on what was loaded, what the file does not have, and what of the file was left out.

    Args:
        incompatible: fvcore's record of the keys that did not fit.
    """
    names = [name for name in model.state_dict() if not name.endswith("num_batches_tracked")]  # of no consequence
    misshapen = {item[0]: item[1:] for item in incompatible.incorrect_shapes}
    missing = [name for name in names if name in set(incompatible.missing_keys) and name not in misshapen]
    lacking = {*missing, *misshapen}
    loaded = modules_of(name for name in names if name not in lacking)
    sizes = modules_of(names)
    whole = [f"{module} ({count})" for module, count in loaded.items() if count == sizes[module]]
    parts = [f"{module} ({count} of {sizes[module]})" for module, count in loaded.items() if count < sizes[module]]
    lines = [f"loaded {sum(loaded.values())} of the model's {len(names)} tensors: {_list([*parts, *whole])}"]
    if missing:
        lines.append(f"not in the file, left as they were: {_counts(modules_of(missing))}")
    if misshapen:
        examples = [f"{name} {tuple(theirs)}, here {tuple(ours)}" for name, (theirs, ours) in misshapen.items()]
        lines.append(f"of another shape in the file, left as they were: {_list(examples, '; ')}")
    if incompatible.unexpected_keys:
        lines.append(f"in the file alone, left out: {_counts(modules_of(incompatible.unexpected_keys))}")
    return lines


def _counts(counts: Counter) -> str:
    return _list([f"{module} ({count})" for module, count in counts.items()])


def _list(items: list[str], separator: str = ", ") -> str:
    more = f"{separator}and {len(items) - _SHOWN} more" if len(items) > _SHOWN else ""
    return (separator.join(items[:_SHOWN]) or "none") + more

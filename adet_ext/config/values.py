"""Values of another type than a key's default that can mean one thing only, turned into the key's type."""

from ast import literal_eval
from typing import Any

from ..d2.config import CfgNode
from ..errors import UserError
from .errors import kind_of, shortened

__all__ = ["fitted", "fitted_tree"]


def fitted(default: Any, value: Any) -> Any:
    """Return ``value`` in the type of ``default`` where only one meaning is possible, else as it is.

    A whole number for a number, a number in exponent notation (a text for YAML), 1e3 for a whole number, true and
    false for True and False, a number where a text is wanted, and all of these in lists.
    """
    plain = _literal(value)
    if isinstance(default, (list, tuple)) and isinstance(plain, (list, tuple)):
        example = default[0] if default and isinstance(default[0], (int, float)) else None
        return [_fitted_item(example, item) for item in plain]
    if isinstance(default, str):
        # A text that reads as a number would become that number in the merge; quotes keep it.
        return repr(str(value)) if _is_number(plain) else value
    if isinstance(default, bool):
        return {"true": True, "false": False}.get(value.lower(), value) if isinstance(value, str) else value
    if not _is_number(plain):
        return value
    if isinstance(default, float):
        return _as_float(plain, value)
    if isinstance(default, int) and isinstance(plain, float) and plain.is_integer():
        return int(plain)
    return value


def fitted_tree(defaults: CfgNode, values: dict, path: str, prefix: str = "") -> dict:
    """Return the nested ``values`` of the file ``path`` with :func:`fitted` applied to every key that ``defaults`` has.

    Raises:
        UserError: a single value where keys are wanted, keys where a value is wanted, no value, or a dotted key.
    """
    result = {}
    for key, value in values.items():
        name = prefix + key
        if key not in defaults:
            if "." in key and isinstance(defaults.get(key.split(".")[0]), CfgNode):
                raise UserError(f"{path}: the key {name} must be nested; write {key.replace('.', ': {', 1)}: ...}}")
            result[key] = value
            continue
        default = defaults[key]
        if isinstance(default, CfgNode) is not isinstance(value, dict) or (value is None and default is not None):
            got = "nothing" if value is None else shortened(value)
            raise UserError(
                f"{path}: {name} must be {kind_of(default)}; got {got}. Correct the value or remove the key"
            )
        is_node = isinstance(default, CfgNode)
        result[key] = fitted_tree(default, value, path, name + ".") if is_node else fitted(default, value)
    return result


def _fitted_item(example: Any, item: Any) -> Any:
    """Return an item of a list: numbers in exponent notation are texts for YAML, but no texts are wanted there."""
    if example is None or isinstance(example, bool):
        return item
    # INPUT.CROP.SIZE takes shares as well as pixels, which must stay whole numbers.
    return fitted(example, item) if isinstance(item, str) or isinstance(example, int) else item


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _as_float(number: int | float, value: Any) -> Any:
    try:
        return float(number)
    except OverflowError:  # an integer above 1e308
        return value


def _literal(value: Any) -> Any:
    """A text as a command line means it: a number, a list, ..., or the text itself."""
    if not isinstance(value, str):
        return value
    try:
        return literal_eval(value)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return value

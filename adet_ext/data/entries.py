"""Check the entries of annotation files other than COCO's instances: LVIS and panoptic ones."""

from collections.abc import Callable, Mapping
from typing import Any

from ..errors import UserError
from .annotation_form import are_finite, is_finite, is_id, is_int, is_text, short

__all__ = ["BOX", "FLAG", "ID", "IDS", "NUMBER", "POLYGONS", "SEGMENTS", "SIZE", "TEXT", "Rule", "check_entries"]

# A check of a value, and what the value must be, in words.
Rule = tuple[Callable[[Any], bool], str]


def _is_numbers(value: Any) -> bool:
    return isinstance(value, list) and are_finite(value)


ID: Rule = (is_id, "a whole number")
IDS: Rule = (lambda v: isinstance(v, list) and all(map(is_id, v)), "a list of whole numbers")
SIZE: Rule = (lambda v: is_int(v) and 0 < v < 2**31, "a positive whole number")
TEXT: Rule = (lambda v: is_text(v) and v != "", "a text")
NUMBER: Rule = (is_finite, "a finite number")
FLAG: Rule = (lambda v: isinstance(v, int) and v in (0, 1), "0 or 1")
BOX: Rule = (lambda v: _is_numbers(v) and len(v) == 4, "four finite numbers")
POLYGONS: Rule = (lambda v: isinstance(v, list) and all(map(_is_numbers, v)), "a list of lists of finite numbers")
# A panoptic PNG codes an id in three bytes.
_SEGMENT_ID: Rule = (lambda v: is_int(v) and 0 <= v < 2**24, "a whole number from 0 to 16777215")


def _is_segment(value: Any) -> bool:
    return isinstance(value, dict) and _SEGMENT_ID[0](value.get("id")) and is_id(value.get("category_id"))


SEGMENTS: Rule = (
    lambda v: isinstance(v, list) and all(map(_is_segment, v)),
    f"a list of objects with an id, {_SEGMENT_ID[1]}, and a category_id, a whole number",
)


def check_entries(path: str, content: dict, part: str, rules: Mapping[str, Rule]) -> None:
    """Check that each entry of the list ``content[part]`` is an object whose keys hold what ``rules`` say.

    Raises:
        UserError: naming the file, the entry and the key.
    """
    for number, entry in enumerate(content[part]):
        where = f"{path}: {part}[{number}]"
        if not isinstance(entry, dict):
            raise UserError(f"{where} must be an object; got {short(entry)}. Download the file again or correct it")
        missing = [key for key in rules if key not in entry]
        if missing:
            raise UserError(f"{where} lacks {', '.join(missing)}; download the file again or correct it")
        for key, (holds, words) in rules.items():
            if not holds(entry[key]):
                raise UserError(
                    f"{where}: {key} must be {words}; got {short(entry[key])}. Download the file again or correct it"
                )

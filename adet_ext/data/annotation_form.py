"""Check the form of one annotation of a COCO file, and hold it for the later checks."""

import dataclasses
import math
from typing import Any

from .mask_checks import polygon_areas, rle_area
from .report import Report

__all__ = [
    "Kept",
    "are_finite",
    "form_problem",
    "is_finite",
    "is_id",
    "is_int",
    "is_number",
    "is_text",
    "plain",
    "short",
    "type_name",
]

# Larger numbers cannot be pixels. Ids must fit 64 bits. JSON has no limit of its own.
_LARGEST = 1e15
_LARGEST_ID = 2**63 - 1
# Keys of detections, which evaluators also read from annotations.
_READ_BY_EVALUATORS = {"ignore", "rle", "score"}


@dataclasses.dataclass
class Kept:
    """A well-formed annotation during the checks. ``raw`` is the file's own and is never changed."""

    raw: dict
    image: dict
    box: list[float]
    segmentation: list | dict | None
    crowd: int
    dropped: bool = False

    @property
    def where(self) -> str:
        return f"annotation id {plain(self.raw['id'])} (image id {plain(self.raw['image_id'])})"

    @property
    def size(self) -> str:
        return f"{self.image['width']} x {self.image['height']} pixels of the image"

    @property
    def shown_box(self) -> str:
        """The box as the file has it."""
        return short(self.box)

    def drop(self, report: Report, kind: str, sentence: str) -> None:
        self.dropped = True
        report.warning(kind, f"{self.where}: {sentence}; the annotation is left out, correct or remove it")

    @property
    def has_sound_area(self) -> bool:
        """Whether the file's area is possible. Evaluators ignore objects of an area below 0 or above 1e10."""
        area = self.raw.get("area")
        return is_finite(area) and 0 < area <= self.image["width"] * self.image["height"] + 1

    def area(self) -> float:
        """Return the area as COCO defines it: that of the mask, or of the box if there is no mask."""
        if isinstance(self.segmentation, dict):
            return float(rle_area(self.segmentation["counts"], self.image["height"], self.image["width"]))
        if self.segmentation:
            return float(polygon_areas(self.segmentation).sum())
        return float(self.box[2] * self.box[3])

    def needs_repair(self) -> bool:
        """Whether an evaluator that reads the file would get another annotation than training does."""
        raw = self.raw
        return (
            self.dropped
            or type(raw.get("iscrowd")) is not int
            or raw["iscrowd"] != self.crowd
            or raw["bbox"] != self.box
            or not self.has_sound_area
            or not _READ_BY_EVALUATORS.isdisjoint(raw)
            or not isinstance(self.segmentation, dict)  # another coding of the same mask
            and (raw.get("segmentation") or None) is not self.segmentation
        )

    def repaired(self) -> dict:
        """Return the annotation as evaluators need it."""
        entry = {
            "id": self.raw["id"],
            "image_id": self.raw["image_id"],
            "category_id": self.raw["category_id"],
            "bbox": self.box,
            "area": self.raw["area"] if self.has_sound_area else self.area(),
            "iscrowd": self.crowd,
        }
        return {**entry, "segmentation": self.segmentation} if self.segmentation else entry


def form_problem(entry: Any) -> str:
    """Return what is wrong with the form of an annotation, as the end of a sentence; "" if nothing is."""
    if not isinstance(entry, dict):
        return f"is a {type_name(entry)}, not an object"
    missing = [key for key in ("id", "image_id", "category_id", "bbox") if key not in entry]
    if missing:
        return f"lacks {', '.join(missing)}"
    for key in ("id", "image_id", "category_id"):
        value = entry[key]
        if not is_id(value) and not (is_text(value) and key != "category_id"):
            return f"has {key} {short(value)}, which is not a whole number of at most 64 bits"
    named = f"(id {short(entry['id'])}, image id {short(entry['image_id'])})"
    box, segmentation = entry["bbox"], entry.get("segmentation")
    if not isinstance(box, list) or len(box) != 4 or not all(is_number(v) for v in box):
        return f"{named} has bbox {short(box)}, not four numbers x, y, width, height"
    if not isinstance(segmentation, (list, dict, type(None))):
        return f"{named} has a segmentation that is a {type_name(segmentation)}, neither polygons nor RLE"
    if isinstance(segmentation, list) and not all(isinstance(p, list) for p in segmentation):
        return f"{named} has a segmentation that is a list, but not of polygons [x, y, x, y, ...]"
    crowd = entry.get("iscrowd")
    if crowd is not None and not (isinstance(crowd, (int, float)) and crowd in (0, 1)):
        return f"{named} has iscrowd {short(crowd)}, neither 0 nor 1"
    return ""


def is_int(value: Any) -> bool:
    """Whether JSON's ``value`` is a whole number. In Python, True is an int too."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_id(value: Any) -> bool:
    """Whether ``value`` is a whole number that fits 64 bits."""
    return is_int(value) and -_LARGEST_ID <= value <= _LARGEST_ID


def is_text(value: Any) -> bool:
    """Whether ``value`` is a text without NUL and without half a surrogate pair, so that it can be printed."""
    return isinstance(value, str) and "\0" not in value and not any("\ud800" <= c <= "\udfff" for c in value)


def is_number(value: Any) -> bool:
    """Whether JSON's ``value`` is a number. NaN and infinity are numbers."""
    return type(value) is float or type(value) is int


def is_finite(value: Any) -> bool:
    """Whether ``value`` is a number of possible size for pixels: not NaN, infinite or above 1e15."""
    return is_number(value) and -_LARGEST < value < _LARGEST


def are_finite(values: list) -> bool:
    """Whether all values of a list are :func:`is_finite`. This is faster than one by one."""
    if not set(map(type, values)) <= {int, float}:
        return False
    # min and max do not show NaN; the sum does.
    return not values or (-_LARGEST < min(values) and max(values) < _LARGEST and sum(values) == sum(values))


def type_name(value: Any) -> str:
    """Return JSON's name for the type of ``value``."""
    names = {list: "list", dict: "object", str: "text", bool: "truth value", int: "number", float: "number"}
    return names.get(type(value), "null" if value is None else type(value).__name__)


def short(value: Any) -> str:
    """Return ``value`` as a text of at most 80 characters."""
    if is_int(value) and not -_LARGEST_ID <= value <= _LARGEST_ID:
        return f"a number of {math.ceil(value.bit_length() * math.log10(2))} digits"
    try:
        text = repr(value)
    except ValueError:  # a list with a number of thousands of digits
        return f"a {type_name(value)} with numbers of thousands of digits"
    return text if len(text) <= 80 else text[:77] + "..."


def plain(value: Any) -> str:
    """Return a printable text of at most 300 characters as it is, and anything else as :func:`short` does."""
    return value if isinstance(value, str) and value.isprintable() and len(value) <= 300 else short(value)

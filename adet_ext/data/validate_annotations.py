"""The annotations of a COCO file: their form one by one, their boxes and masks all at once.

Letters: A annotations. Boxes are COCO's (x, y, width, height) in pixels.
"""

import dataclasses
import math
from numbers import Real
from typing import Any

import numpy as np
import pycocotools.mask as mask_util

from .mask_checks import crossing_polygons, polygon_areas, rle_area
from .report import Report

__all__ = ["Kept", "check_annotations", "check_boxes", "check_masks", "is_int", "repaired", "type_name"]

# COCO's own boxes reach over the border by rounding; only what lies further out is clipped.
_TOLERANCE = 1.0
_MIN_AREA = 1e-6
_MAX_PAIRS = 20_000_000  # of polygon edges looked at for crossings: some seconds

_BAD_POLYGON = "fewer than 3 points, no area, or coordinates that are not finite numbers"


@dataclasses.dataclass
class Kept:
    """A well-formed annotation on its way through the checks; ``raw`` is the file's own and never changed."""

    raw: dict
    image: dict
    box: list[float]
    segmentation: list | dict | None
    crowd: int
    dropped: bool = False

    @property
    def where(self) -> str:
        return f"annotation id {self.raw['id']} (image id {self.raw['image_id']})"

    @property
    def size(self) -> str:
        return f"{self.image['width']} x {self.image['height']} pixels of the image"

    def drop(self, report: Report, kind: str, sentence: str) -> None:
        self.dropped = True
        report.warning(kind, f"{self.where}: {sentence}; the annotation is left out, correct or remove it")


def check_annotations(
    entries: list, images: dict[Any, dict], category_ids: dict[int, int], report: Report
) -> tuple[list[Kept], bool]:
    """Return the well-formed annotations, and whether evaluators would miss something in one of them."""
    ids, kept, needs_repair = set(), [], False
    for number, entry in enumerate(entries):
        problem = _problem(entry)
        if problem:
            report.error("annotation malformed", f"annotations[{number}] {problem}; correct the annotation file")
            continue
        ann_id, image_id = entry["id"], entry["image_id"]
        where = f"annotation id {ann_id} (image id {image_id})"
        if ann_id in ids:
            report.error("annotation id twice", f"{where}: this annotation id occurs twice; number them anew")
            continue
        ids.add(ann_id)
        if image_id not in images:
            report.warning(
                "annotation without image", f"{where}: 'images' has no such image; it is left out, add the image"
            )
            continue
        if entry["category_id"] not in category_ids:
            report.error(
                "category unknown",
                f"{where}: category id {entry['category_id']} is not in 'categories'; add it there or correct it",
            )
            continue
        crowd = int(entry.get("iscrowd") or 0)
        if entry.get("ignore") and not crowd:
            report.warning(
                "ignore flag", f"{where}: 'ignore' is set; it counts as a crowd (not trained on), use 'iscrowd'"
            )
            crowd = 1
        # Evaluators take both keys for granted.
        needs_repair |= not _is_number(entry.get("area")) or crowd != entry.get("iscrowd")
        kept.append(Kept(entry, images[image_id], entry["bbox"], entry.get("segmentation") or None, crowd))
    return kept, needs_repair


def _problem(entry: Any) -> str:
    if not isinstance(entry, dict):
        return f"is a {type_name(entry)}, not an object"
    missing = [key for key in ("id", "image_id", "category_id", "bbox") if key not in entry]
    if missing:
        return f"lacks {', '.join(missing)}"
    for key in ("id", "image_id", "category_id"):
        value = entry[key]
        if not is_int(value) and not (isinstance(value, str) and key != "category_id"):
            return f"has {key} {_short(value)}, which is not a whole number"
    named = f"(id {entry['id']}, image id {entry['image_id']})"
    box, segmentation = entry["bbox"], entry.get("segmentation")
    if not isinstance(box, list) or len(box) != 4 or not all(_is_number(v) for v in box):
        return f"{named} has bbox {_short(box)}, not four numbers x, y, width, height"
    if not isinstance(segmentation, (list, dict, type(None))):
        return f"{named} has a segmentation that is a {type_name(segmentation)}, neither polygons nor RLE"
    if isinstance(segmentation, list) and not all(isinstance(p, list) for p in segmentation):
        return f"{named} has a segmentation that is a list, but not of polygons [x, y, x, y, ...]"
    if entry.get("iscrowd") not in (0, 1, None):
        return f"{named} has iscrowd {_short(entry['iscrowd'])}, neither 0 nor 1"
    return ""


def check_boxes(kept: list[Kept], report: Report) -> None:
    """Drop annotations whose box is not finite, empty or outside the image; clip those that reach out of it."""
    if not kept:
        return
    boxes = np.array([k.box for k in kept], np.float64)  # [A, 4]
    limit = np.array([(k.image["width"], k.image["height"]) for k in kept], np.float64)
    finite = np.isfinite(boxes).all(1)
    safe = np.where(finite[:, None], boxes, 1.0)
    low, high = safe[:, :2], safe[:, :2] + safe[:, 2:]
    empty = (safe[:, 2:] <= 0).any(1)
    over = ((low < -_TOLERANCE) | (high > limit + _TOLERANCE)).any(1)
    clipped = np.concatenate([low.clip(0, limit), high.clip(0, limit) - low.clip(0, limit)], 1)
    for i in np.flatnonzero(~finite | empty | over):
        k, box = kept[i], _short(kept[i].box)
        if not finite[i]:
            k.drop(report, "box not finite", f"its box {box} is not made of finite numbers")
        elif empty[i]:
            k.drop(report, "box empty", f"its box {box} has no area")
        elif (clipped[i, 2:] <= 0).any():
            k.drop(report, "box outside", f"its box {box} lies outside the {k.size}")
        else:
            report.warning("box reaches out", f"{k.where}: its box {box} reaches out of the {k.size}; it is clipped")
            k.box = clipped[i].tolist()


def check_masks(kept: list[Kept], report: Report) -> bool:
    """Drop unusable polygons and masks; return whether evaluators would stumble over what is wrong.

    A set without any mask is one for detection; where some annotations have one, those without are dropped.
    """
    before = sum(k.dropped for k in kept)
    masked = any(k.segmentation is not None for k in kept)
    polygons, owners, lossy = [], [], {}
    for k in kept:
        if isinstance(k.segmentation, dict):
            _check_rle(k, report)
        elif isinstance(k.segmentation, list):
            formed = [p for p in k.segmentation if _is_polygon(p)]
            if len(formed) < len(k.segmentation):
                lossy[id(k)] = k
            polygons += formed
            owners += [k] * len(formed)
            k.segmentation = []  # filled again below
        elif masked and not k.dropped:
            k.drop(report, "mask missing", "it has neither polygons nor RLE, though others have")
    for polygon, owner, sound in zip(polygons, owners, _with_area(polygons)):
        if sound:
            owner.segmentation.append(polygon)
        else:
            lossy[id(owner)] = owner
    for k in lossy.values():
        if k.segmentation:
            report.warning("polygon unusable", f"{k.where}: a polygon has {_BAD_POLYGON}; its others are kept")
        elif not k.dropped:
            k.drop(report, "mask empty", f"its polygons have {_BAD_POLYGON}")
    crossing, seen = crossing_polygons(polygons, _MAX_PAIRS)
    for i in crossing:
        report.warning(
            "polygon crosses itself", f"{owners[i].where}: a polygon crosses itself; it is kept, check its outline"
        )
    if seen < len(polygons):
        report.notes.append(f"Looked for crossings in the first {seen} of {len(polygons)} polygons.")
    broken_box = any(not math.isfinite(sum(k.box)) for k in kept)
    return bool(lossy) or broken_box or sum(k.dropped for k in kept) > before


def _with_area(polygons: list[list[float]]) -> list[bool]:
    sound = polygon_areas(polygons) > _MIN_AREA
    # The halves of a bow tie cancel out: it has an area all the same.
    flat = np.flatnonzero(~sound)
    crossing, _ = crossing_polygons([polygons[i] for i in flat], _MAX_PAIRS)
    sound[flat[crossing]] = True
    return sound.tolist()


def _check_rle(k: Kept, report: Report) -> None:
    """Check a run-length code, and compress it where it is not."""
    size, counts = k.segmentation.get("size"), k.segmentation.get("counts")
    height, width = k.image["height"], k.image["width"]
    if not isinstance(size, list) or not isinstance(counts, (list, str)):
        report.error("RLE malformed", f"{k.where}: an RLE mask needs a 'size' and 'counts'; encode it anew")
        return
    if size != [height, width]:
        report.error(
            "RLE size",
            f"{k.where}: its RLE mask is for {_short(size)} (height, width), the image has {[height, width]}; "
            "encode it anew",
        )
        return
    try:
        area = rle_area(counts, height, width)
    except ValueError as error:
        report.error("RLE malformed", f"{k.where}: its RLE mask is broken, {error}; encode it anew")
        return
    if isinstance(counts, list):
        code = mask_util.frPyObjects(k.segmentation, height, width)["counts"]
        k.segmentation = {"size": size, "counts": code.decode("ascii")}
    if not area and not k.dropped:
        k.drop(report, "mask empty", "its RLE mask sets no pixel")


def _is_polygon(polygon: list) -> bool:
    return (
        len(polygon) >= 6
        and len(polygon) % 2 == 0
        and all(type(v) is float or type(v) is int for v in polygon)
        and math.isfinite(sum(polygon))
    )


def repaired(k: Kept) -> dict:
    """Return the annotation as evaluators need it: with ``iscrowd``, ``area`` and usable polygons alone."""
    entry = {**k.raw, "iscrowd": k.crowd}
    if k.segmentation:
        entry["segmentation"] = k.segmentation
    if not _is_number(entry.get("area")) or not math.isfinite(entry["area"]):
        entry["area"] = _area(k)
    return entry


def _area(k: Kept) -> float:
    """As COCO counts it: of the mask where there is one, else of the box."""
    if isinstance(k.segmentation, dict):
        return float(rle_area(k.segmentation["counts"], k.image["height"], k.image["width"]))
    if k.segmentation:
        return float(polygon_areas(k.segmentation).sum())
    return float(k.box[2] * k.box[3])


def is_int(value: Any) -> bool:
    """Whether JSON's ``value`` is a whole number (in Python, True is one too)."""
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def type_name(value: Any) -> str:
    """What JSON calls the type of ``value``."""
    names = {list: "list", dict: "object", str: "text", bool: "truth value", int: "number", float: "number"}
    return names.get(type(value), "null" if value is None else type(value).__name__)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."

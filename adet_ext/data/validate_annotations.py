"""Check the annotations of a COCO file: their form one by one, their boxes and masks all at once.

Letters: A annotations. Boxes are COCO's (x, y, width, height) in pixels.
"""

import collections
from typing import Any

import numpy as np
import pycocotools.mask as mask_util

from .annotation_form import Kept, are_finite, form_problem, is_finite, is_int, plain, short
from .mask_checks import crossing_polygons, polygon_areas, rle_area
from .polygons import clip_far, reaches_far, sets_a_pixel
from .report import Report

__all__ = ["check_annotations", "check_boxes", "check_masks"]

# COCO's boxes reach over the border by rounding errors. Only boxes that reach further are clipped.
_TOLERANCE = 1.0
_MIN_SIDE = 1e-3  # pixels; thinner boxes are lost in the 32-bit numbers of training
_KEPT_AREA = 0.96  # of a box that reaches out by less than the tolerance
_MIN_AREA = 1e-6
_SMALL_AREA = 4.0  # square pixels; below this a polygon may miss every pixel
_MAX_PAIRS = 20_000_000  # of polygon edges checked for crossings, which takes some seconds

_BAD_POLYGON = "fewer than 3 points, no area, or coordinates that are not finite numbers"


def check_annotations(
    entries: list, images: dict[Any, dict], category_ids: dict[int, int], report: Report
) -> list[Kept]:
    """Return the well-formed annotations of known images and categories."""
    ids, kept = set(), []
    for number, entry in enumerate(entries):
        problem = form_problem(entry)
        if problem:
            report.error("annotation malformed", f"annotations[{number}] {problem}; correct the annotation file")
            continue
        ann_id, image_id = entry["id"], entry["image_id"]
        where = f"annotation id {plain(ann_id)} (image id {plain(image_id)})"
        if ann_id in ids:
            report.error("annotation id twice", f"{where}: this annotation id occurs twice; number them again")
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
        kept.append(Kept(entry, images[image_id], entry["bbox"], entry.get("segmentation") or None, crowd))
        if entry.get("area") is not None and not kept[-1].has_sound_area:
            report.warning("area unusable", f"{where}: its area {short(entry['area'])} cannot be one; it is computed")
    _check_crowds(kept, report)
    _check_units(kept, report)
    return kept


def _check_crowds(kept: list[Kept], report: Report) -> None:
    crowds = sum(k.crowd for k in kept)
    if crowds > len(kept) / 2:
        report.warning(
            "mostly crowds",
            f"{crowds} of {len(kept)} annotations have iscrowd 1, which leaves them out of training and scores; set "
            "iscrowd to 0 for single objects",
        )


def _check_units(kept: list[Kept], report: Report) -> None:
    """Report coordinates from 0 to 1, which are fractions of the image's size instead of pixels."""
    large = [k for k in kept if min(k.image["width"], k.image["height"]) >= 4]
    polygons = [p for k in large if isinstance(k.segmentation, list) for p in k.segmentation if p]
    for name, numbers in (("boxes", [k.box for k in large]), ("polygons", polygons)):
        normalized = sum(all(is_finite(v) and 0 <= v <= 1 for v in n) for n in numbers)
        if numbers and normalized > len(numbers) / 2:
            report.error(
                "coordinates in 0 to 1",
                f"the coordinates of {normalized} of {len(numbers)} {name} are between 0 and 1; COCO's are pixels, "
                "multiply them by the image's width and height",
            )


def check_boxes(kept: list[Kept], report: Report) -> None:
    """Drop annotations whose box is not finite, empty or outside the image; clip those that reach out of it."""
    if not kept:
        return
    numbers = [[v if is_finite(v) else np.nan for v in k.box] for k in kept]
    boxes = np.array(numbers, np.float64)  # [A, 4]
    limit = np.array([(k.image["width"], k.image["height"]) for k in kept], np.float64)
    finite = np.isfinite(boxes).all(1)
    safe = np.where(finite[:, None], boxes, 1.0)
    low, high = safe[:, :2], safe[:, :2] + safe[:, 2:]
    empty = (safe[:, 2:] <= 0).any(1)
    clipped = np.concatenate([low.clip(0, limit), high.clip(0, limit) - low.clip(0, limit)], 1)
    over = ((low < -_TOLERANCE) | (high > limit + _TOLERANCE)).any(1)
    # One pixel is a large part of a narrow box. Training cuts it off; evaluation would count it.
    over |= np.prod(clipped[:, 2:], axis=1) < _KEPT_AREA * np.prod(safe[:, 2:], axis=1)
    thin = (np.where(over[:, None], clipped[:, 2:], safe[:, 2:]) < _MIN_SIDE).any(1)
    for i in np.flatnonzero(~finite | empty | over | thin):
        k, box = kept[i], kept[i].shown_box
        if not finite[i]:
            k.drop(report, "box not finite", f"its box {box} is not made of finite numbers")
        elif empty[i]:
            k.drop(report, "box empty", f"its box {box} has no area")
        elif (clipped[i, 2:] <= 0).any():
            k.drop(report, "box outside", f"its box {box} lies outside the {k.size}")
        elif thin[i]:
            k.drop(report, "box empty", f"its box {box} has a side below {_MIN_SIDE:g} pixels in the image")
        else:
            report.warning("box reaches out", f"{k.where}: its box {box} reaches out of the {k.size}; it is clipped")
            k.box = clipped[i].tolist()


def check_masks(kept: list[Kept], report: Report) -> None:
    """Drop unusable polygons and masks.

    A set without masks is used for boxes only. If some annotations have masks, those without are dropped.
    """
    masked = any(k.segmentation is not None for k in kept)
    polygons, owners, lossy = [], [], {}
    for k in kept:
        if isinstance(k.segmentation, dict):
            _check_rle(k, report)
        elif isinstance(k.segmentation, list):
            formed = [p for p in k.segmentation if _is_polygon(p)]
            if len(formed) < len(k.segmentation):
                lossy[id(k)] = k
            formed = _without_far_parts(k, formed, report)
            polygons += formed
            owners += [k] * len(formed)
            k.segmentation = []  # filled again below
        elif masked and not k.dropped:
            k.drop(report, "mask missing", "it has neither polygons nor RLE, though others have")
    areas = polygon_areas(polygons)
    area_of = collections.Counter()
    for polygon, owner, area, sound in zip(polygons, owners, areas.tolist(), _with_area(polygons, areas)):
        area_of[id(owner)] += area
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
    for k in kept:
        if isinstance(k.segmentation, list) and not k.dropped:
            _check_pixels(k, area_of[id(k)], report)
            if k.segmentation == k.raw["segmentation"]:
                k.segmentation = k.raw["segmentation"]


def _without_far_parts(k: Kept, polygons: list[list[float]], report: Report) -> list[list[float]]:
    """Cut polygons that reach far out of the image. Their outlines would take all memory to draw."""
    height, width = k.image["height"], k.image["width"]
    near = []
    for polygon in polygons:
        # The extremes are enough for most polygons.
        side = min(height, width)
        if min(polygon) >= -side and max(polygon) <= 2 * side:
            near.append(polygon)
            continue
        array = np.array(polygon, np.float64)
        if reaches_far(array, height, width):
            report.warning(
                "polygon reaches far out",
                f"{k.where}: a polygon reaches from {array.min():g} to {array.max():g}, far out of the {k.size}; it is "
                "cut off there, check its coordinates",
            )
            polygon = clip_far(array, height, width).tolist()
        if polygon:
            near.append(polygon)
    return near


def _check_pixels(k: Kept, area: float, report: Report) -> None:
    """Drop an annotation whose polygons set no pixel of the image."""
    if not k.segmentation:  # everything was cut off
        k.drop(report, "mask sets no pixel", f"its polygons lie outside the {k.size}")
        return
    x = [v for p in k.segmentation for v in p[0::2]]
    y = [v for p in k.segmentation for v in p[1::2]]
    height, width = k.image["height"], k.image["width"]
    within = min(*x, *y) >= -_TOLERANCE and max(x) <= width + _TOLERANCE and max(y) <= height + _TOLERANCE
    # An outline that is traced twice has an area, but by COCO's even-odd rule no pixel is inside.
    traced_once = len(set(zip(x, y))) >= len(x) - len(k.segmentation)
    # A polygon thinner than a pixel may pass between the pixels.
    if within and traced_once and area > _SMALL_AREA + max(max(x) - min(x), max(y) - min(y)):
        return
    if not sets_a_pixel(k.segmentation, height, width):
        k.drop(report, "mask sets no pixel", f"its polygons set no pixel of the {k.size}")


def _with_area(polygons: list[list[float]], areas: np.ndarray) -> list[bool]:
    sound = areas > _MIN_AREA
    # The signed area of a bow tie is zero, yet it is not empty.
    flat = np.flatnonzero(~sound)
    crossing, _ = crossing_polygons([polygons[i] for i in flat], _MAX_PAIRS)
    sound[flat[crossing]] = True
    return sound.tolist()


def _check_rle(k: Kept, report: Report) -> None:
    """Check a run-length code, and compress it if it is not compressed."""
    size, counts = k.segmentation.get("size"), k.segmentation.get("counts")
    height, width = k.image["height"], k.image["width"]
    if not isinstance(size, list) or not isinstance(counts, (list, str)):
        report.error("RLE malformed", f"{k.where}: an RLE mask needs a 'size' and 'counts'; encode it again")
        return
    if size != [height, width] or not all(map(is_int, size)):
        report.error(
            "RLE size",
            f"{k.where}: its RLE mask is for {short(size)} (height, width), the image has {[height, width]}; "
            "encode it again",
        )
        return
    try:
        area = rle_area(counts, height, width)
    except ValueError as error:
        report.error("RLE malformed", f"{k.where}: its RLE mask is broken, {error}; encode it again")
        return
    if isinstance(counts, list):
        code = mask_util.frPyObjects(k.segmentation, height, width)["counts"]
        k.segmentation = {"size": size, "counts": code.decode("ascii")}
    if not area and not k.dropped:
        k.drop(report, "mask empty", "its RLE mask sets no pixel")


def _is_polygon(polygon: list) -> bool:
    return len(polygon) >= 6 and len(polygon) % 2 == 0 and are_finite(polygon)

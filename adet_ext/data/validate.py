"""Checking a COCO-format data set before anything is trained on it.

Errors keep the set from being used; warnings say what is left out or adjusted. Nothing is written to the user's
files.
"""

import dataclasses
import json
import os
from typing import Any

from ..d2.structures import BoxMode
from ..d2.utils import PathManager
from .report import Report
from .validate_annotations import Kept, check_annotations, check_boxes, check_masks, is_int, repaired, type_name

__all__ = ["CheckedCoco", "validate_coco"]


@dataclasses.dataclass
class CheckedCoco:
    """What :func:`validate_coco` found and what is left to train on.

    Attributes:
        report: errors and warnings.
        dataset_dicts: Detectron2 dicts of all sound images with their sound annotations, by image id.
        classes: category names by contiguous id.
        category_ids: the file's category id -> contiguous id.
        repaired: a COCO dict for evaluation, if evaluators would stumble over the file itself; else None.
    """

    report: Report
    dataset_dicts: list[dict] = dataclasses.field(default_factory=list)
    classes: list[str] = dataclasses.field(default_factory=list)
    category_ids: dict[int, int] = dataclasses.field(default_factory=dict)
    repaired: dict | None = None


def validate_coco(json_path: str, image_root: str, *, check_files: bool = True, max_examples: int = 5) -> CheckedCoco:
    """Check the annotation file ``json_path``, whose images lie in ``image_root``.

    Args:
        check_files: also look for the image files (one listing per folder; none is opened).
        max_examples: sentences kept per kind of problem; all are counted.
    """
    report = Report(json_path, max_examples)
    checked = CheckedCoco(report)
    data = _read_json(json_path, report)
    if data is None:
        return checked
    names = _categories(data["categories"], report)
    checked.classes = [names[i] for i in sorted(names)]
    checked.category_ids = {category: i for i, category in enumerate(sorted(names))}
    images = _images(data["images"], image_root, report, check_files)
    kept, needs_repair = check_annotations(data["annotations"], images, checked.category_ids, report)
    check_boxes(kept, report)
    needs_repair |= check_masks(kept, report)
    checked.dataset_dicts = _dicts(images, kept, checked.category_ids, image_root)
    if needs_repair:
        checked.repaired = {
            "images": list(images.values()),
            "categories": data["categories"],
            "annotations": [repaired(k) for k in kept if not k.dropped],
        }
    return checked


def _read_json(json_path: str, report: Report) -> dict | None:
    """Return the parsed file if it has the three lists that a COCO file needs, else None with errors noted."""
    try:
        with PathManager.open(json_path, "rb") as file:
            data = json.loads(file.read())
    except FileNotFoundError:
        report.error("file missing", "there is no such annotation file; check the path")
        return None
    except OSError as error:
        report.error("file unreadable", f"it cannot be read ({error.strerror or error}); check the path")
        return None
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        place = f"line {error.lineno}: {error.msg}" if isinstance(error, json.JSONDecodeError) else str(error)
        report.error("not JSON", f"this is not JSON ({place}); check that it is the right file and complete")
        return None
    if not isinstance(data, dict):
        report.error("not COCO", f"it holds a {type_name(data)}, not an object; convert it to COCO's format")
        return None
    for key in ("images", "annotations", "categories"):
        if key not in data:
            report.error(
                "key missing", f"the key {key!r} is missing; a COCO file has images, annotations and categories"
            )
        elif not isinstance(data[key], list):
            report.error("wrong type", f"{key!r} is a {type_name(data[key])}; make it a list")
    return data if report.ok else None


def _categories(entries: list, report: Report) -> dict[int, str]:
    """Return category id -> name."""
    names: dict[int, str] = {}
    for number, entry in enumerate(entries):
        if not isinstance(entry, dict) or not is_int(entry.get("id")) or not isinstance(entry.get("name"), str):
            report.error(
                "category malformed", f"categories[{number}] needs an 'id', a whole number, and a 'name', a text"
            )
        elif entry["id"] in names:
            report.error("category id twice", f"category id {entry['id']} occurs twice; give each category its own id")
        else:
            if entry["name"] in names.values():
                report.warning(
                    "category name twice",
                    f"two categories are called {entry['name']!r} and stay two classes; merge or rename them",
                )
            names[entry["id"]] = entry["name"]
    if not entries:
        report.error("no categories", "'categories' is empty; list the classes there")
    return names


def _images(entries: list, image_root: str, report: Report, check_files: bool) -> dict[Any, dict]:
    """Return image id -> entry of all well-formed images."""
    images: dict[Any, dict] = {}
    listings: dict[str, set[str] | None] = {}
    for number, entry in enumerate(entries):
        problem = _image_problem(entry)
        if problem:
            report.error("image malformed", f"images[{number}] {problem}; correct the annotation file")
        elif entry["id"] in images:
            report.error(
                "image id twice",
                f"image id {entry['id']} occurs twice ({entry['file_name']}); give each image its own id",
            )
        else:
            images[entry["id"]] = entry
            if check_files:
                _check_file(entry, image_root, listings, report)
    if not entries:
        report.error("no images", "'images' is empty; there is nothing to train on or to evaluate")
    return images


def _image_problem(entry: Any) -> str:
    if not isinstance(entry, dict):
        return f"is a {type_name(entry)}, not an object"
    missing = [key for key in ("id", "file_name", "height", "width") if key not in entry]
    if missing:
        return f"lacks {', '.join(missing)}"
    if not is_int(entry["id"]) and not isinstance(entry["id"], str):
        return f"has id {entry['id']!r}, neither a whole number nor a text"
    if not isinstance(entry["file_name"], str) or not entry["file_name"]:
        return f"(id {entry['id']}) has file_name {entry['file_name']!r}, which is no name"
    if not all(is_int(entry[key]) and entry[key] > 0 for key in ("height", "width")):
        size = f"height {entry['height']!r} and width {entry['width']!r}"
        return f"(id {entry['id']}) has {size}, not positive whole numbers"
    return ""


def _check_file(entry: dict, image_root: str, listings: dict[str, set[str] | None], report: Report) -> None:
    """Look ``entry``'s file up in the listing of its folder, made when first needed; None: no such folder."""
    folder, name = os.path.split(os.path.join(image_root, entry["file_name"]))
    if folder not in listings:
        try:
            listings[folder] = set(PathManager.ls(folder or "."))
        except OSError:
            listings[folder] = None
            report.error(
                "image folder missing", f"there is no folder {folder or '.'} to take images from; check the path"
            )
    names = listings[folder]
    if names is not None and name not in names:
        report.error(
            "image file missing",
            f"image id {entry['id']}: there is no file {name} in {folder or '.'}; copy it there, or take the "
            "image out of the file",
        )


def _dicts(images: dict[Any, dict], kept: list[Kept], category_ids: dict[int, int], image_root: str) -> list[dict]:
    by_image: dict[Any, list[dict]] = {image_id: [] for image_id in images}
    for k in kept:
        if k.dropped:
            continue
        annotation = {
            "iscrowd": k.crowd,
            "bbox": [float(v) for v in k.box],
            "bbox_mode": BoxMode.XYWH_ABS,
            "category_id": category_ids[k.raw["category_id"]],
        }
        if k.segmentation:
            annotation["segmentation"] = k.segmentation
        by_image[k.raw["image_id"]].append(annotation)
    return [
        {
            "file_name": os.path.join(image_root, images[i]["file_name"]),
            "height": images[i]["height"],
            "width": images[i]["width"],
            "image_id": i,
            "annotations": by_image[i],
        }
        for i in sorted(images, key=lambda i: (isinstance(i, str), i))
    ]

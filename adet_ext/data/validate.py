"""Check a COCO-format data set before training.

Errors prevent the use of the set; warnings say what is left out or adjusted. The user's files are not changed.
"""

import dataclasses
import logging
import os
from typing import Any

from ..d2.structures import BoxMode
from ..errors import UserError
from .annotation_form import Kept, is_id, is_int, is_text, plain, short, type_name
from .image_files import leaves, listing
from .json_file import parse_json, read_bytes, reads_alike_everywhere
from .report import Report
from .validate_annotations import check_annotations, check_boxes, check_masks

__all__ = ["CheckedCoco", "log_registered", "validate_coco"]

logger = logging.getLogger(__name__)

_MAX_PIXELS = 2**30  # OpenCV reads no larger images, and COCO's run lengths are 32-bit numbers


@dataclasses.dataclass
class CheckedCoco:
    """Result of :func:`validate_coco`.

    Attributes:
        report: errors and warnings.
        dataset_dicts: Detectron2 dicts of all valid images with their valid annotations, by image id.
        classes: category names by contiguous id.
        category_ids: the file's category id -> contiguous id.
        has_masks: whether there are masks. Without them only boxes are trained and evaluated.
        source: the file's content if it needs no repair, else None.
        repaired: a COCO dict for evaluation, if evaluators would read other annotations from the file than training
            does; else None.
    """

    report: Report
    dataset_dicts: list[dict] = dataclasses.field(default_factory=list)
    classes: list[str] = dataclasses.field(default_factory=list)
    category_ids: dict[int, int] = dataclasses.field(default_factory=dict)
    has_masks: bool = False
    repaired: dict | None = None
    source: dict | None = None


def validate_coco(
    json_path: str,
    image_root: str,
    *,
    check_files: bool = True,
    max_examples: int = 5,
    allow_outside: bool = False,
) -> CheckedCoco:
    """Check the annotation file ``json_path``, whose images are in ``image_root``.

    Args:
        check_files: also look for the image files. Folders are listed once, and no image is opened.
        max_examples: how many sentences are kept for each kind of problem. All are counted.
        allow_outside: accept image files outside ``image_root``.
    """
    report = Report(json_path, max_examples)
    checked = CheckedCoco(report)
    data, is_plain = _read(json_path, report)
    if data is None:
        return checked
    checked.source = data
    names = _categories(data["categories"], report)
    checked.classes = [names[i] for i in sorted(names)]
    checked.category_ids = {category: i for i, category in enumerate(sorted(names))}
    images = _images(data["images"], image_root, report, check_files, allow_outside)
    kept = check_annotations(data["annotations"], images, checked.category_ids, report)
    check_boxes(kept, report)
    check_masks(kept, report)
    checked.dataset_dicts = _dicts(images, kept, checked.category_ids, image_root)
    checked.has_masks = any(k.segmentation for k in kept if not k.dropped)
    if not report.ok:
        return checked
    # COCO's evaluation takes an annotation id of 0 for "not found", and compares ids as 64-bit numbers.
    renumber = not all(is_int(k.raw["id"]) and k.raw["id"] > 0 for k in kept)
    differs = len(kept) < len(data["annotations"]) or any(k.needs_repair() for k in kept)
    if renumber or differs or not is_plain or _has_nested_extras(data):
        annotations = [k.repaired() for k in kept if not k.dropped]
        if renumber:
            annotations = [{**a, "id": number} for number, a in enumerate(annotations, 1)]
        categories = [{"id": i, "name": names[i]} for i in sorted(names)]
        checked.source = None
        checked.repaired = {"images": list(images.values()), "categories": categories, "annotations": annotations}
    return checked


def _read(json_path: str, report: Report) -> tuple[dict | None, bool]:
    """Return the parsed file if it has the three lists that a COCO file needs, else None with errors noted.

    Also return whether evaluators, which read the file themselves, will get the same content.
    """
    try:
        content = read_bytes(json_path)
        data = parse_json(content, json_path)
    except UserError as error:
        sentence = str(error).removeprefix(f"{json_path}: ")
        kinds = {"there is no such": "file missing", "it cannot be read": "file unreadable"}
        kind = next((kind for start, kind in kinds.items() if sentence.startswith(start)), "not JSON")
        report.error(kind, sentence)
        return None, False
    if not isinstance(data, dict):
        report.error("not COCO", f"it holds a {type_name(data)}, not an object; convert it to COCO's format")
        return None, False
    for key in ("images", "annotations", "categories"):
        if key not in data:
            report.error(
                "key missing", f"the key {key!r} is missing; a COCO file has images, annotations and categories"
            )
        elif not isinstance(data[key], list):
            report.error("wrong type", f"{key!r} is a {type_name(data[key])}; make it a list")
    return (data if report.ok else None), reads_alike_everywhere(content)


def _has_nested_extras(data: dict) -> bool:
    """Whether there are lists or objects that COCO does not need. Evaluators copy them, however deep they are."""
    info = data.get("info")
    extras = [*info.values()] if isinstance(info, dict) else [info]
    extras += [value for category in data["categories"] if isinstance(category, dict) for value in category.values()]
    return any(isinstance(value, (dict, list)) for value in extras)


def _categories(entries: list, report: Report) -> dict[int, str]:
    """Return the name of each category id."""
    names: dict[int, str] = {}
    for number, entry in enumerate(entries):
        if not isinstance(entry, dict) or not is_id(entry.get("id")) or not is_text(entry.get("name")):
            report.error(
                "category malformed",
                f"categories[{number}] needs an 'id', a whole number of at most 64 bits, and a 'name', a text",
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


def _images(entries: list, image_root: str, report: Report, check_files: bool, allow_outside: bool) -> dict[Any, dict]:
    """Return the entries of all well-formed images by image id."""
    images: dict[Any, dict] = {}
    listings: dict[str, set[str] | None] = {}
    for number, entry in enumerate(entries):
        problem = _image_problem(entry)
        if problem:
            report.error("image malformed", f"images[{number}] {problem}; correct the annotation file")
        elif entry["id"] in images:
            report.error(
                "image id twice",
                f"image id {plain(entry['id'])} occurs twice ({plain(entry['file_name'])}); give each image its own id",
            )
        elif not allow_outside and leaves(entry["file_name"]):
            report.error(
                "image file outside",
                f"image id {plain(entry['id'])}: its file_name {short(entry['file_name'])} leaves the image folder "
                f"{image_root or '.'}; correct it, or add --allow-outside (in Python, allow_outside=True)",
            )
        else:
            images[entry["id"]] = entry
            if check_files:
                images[entry["id"]] = _with_file(entry, image_root, listings, report)
    if len({type(image_id) for image_id in images}) > 1:
        report.error("image ids mixed", "some image ids are texts and others numbers, which cannot be sorted; use one")
    if not entries:
        report.error("no images", "'images' is empty; there is nothing to train on or to evaluate")
    return images


def _image_problem(entry: Any) -> str:
    if not isinstance(entry, dict):
        return f"is a {type_name(entry)}, not an object"
    missing = [key for key in ("id", "file_name", "height", "width") if key not in entry]
    if missing:
        return f"lacks {', '.join(missing)}"
    if not is_id(entry["id"]) and not is_text(entry["id"]):
        return f"has id {short(entry['id'])}, neither a whole number of at most 64 bits nor a text"
    if is_int(entry["id"]) and entry["id"] < 0:
        return f"has id {entry['id']}; evaluators take whole numbers from 0 on"
    if not is_text(entry["file_name"]) or not entry["file_name"]:
        return f"(id {plain(entry['id'])}) has file_name {short(entry['file_name'])}, which is not a name"
    if not all(is_int(entry[key]) and entry[key] > 0 for key in ("height", "width")):
        size = f"height {short(entry['height'])} and width {short(entry['width'])}"
        return f"(id {plain(entry['id'])}) has {size}, not positive whole numbers"
    if entry["height"] * entry["width"] > _MAX_PIXELS:
        return f"(id {plain(entry['id'])}) has {entry['width']} x {entry['height']} pixels; {_MAX_PIXELS} are the most"
    return ""


def _with_file(entry: dict, image_root: str, listings: dict[str, set[str] | None], report: Report) -> dict:
    """Look for the file of ``entry`` and return the entry, with backslashes in its file name replaced."""
    folder, name = os.path.split(os.path.join(image_root, entry["file_name"]))
    is_new = folder not in listings
    names = listing(folder, listings)
    if names is not None and name in names:
        return entry
    if "\\" in entry["file_name"]:
        other = {**entry, "file_name": entry["file_name"].replace("\\", "/")}
        folder_of_other, name_of_other = os.path.split(os.path.join(image_root, other["file_name"]))
        if not leaves(other["file_name"]) and name_of_other in (listing(folder_of_other, listings) or ()):
            report.warning(
                "backslash in a path",
                f"image id {plain(entry['id'])}: {short(entry['file_name'])} has Windows' backslashes; it is read as "
                f"{short(other['file_name'])}",
            )
            return other
    if names is None and is_new:
        report.error(
            "image folder missing", f"there is no folder {plain(folder) or '.'} to take images from; check the path"
        )
    elif names is not None:
        report.error(
            "image file missing",
            f"image id {plain(entry['id'])}: there is no file {plain(name)} in {plain(folder) or '.'}; copy it "
            "there, or take the image out of the file",
        )
    return entry


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


def log_registered(name: str, images: str, annotations: str, checked: CheckedCoco) -> None:
    """Log that a data set was registered, and which flaws of its files are worked around."""
    found = checked.report.warnings
    if found:
        kinds = "; ".join(f"{f.kind}: {f.count}" for f in found)
        logger.warning(
            "Data set %s has flaws that are worked around (%s). For a list: python -m adet_ext data validate %s %s %s",
            name, kinds, name, images, annotations,
        )  # fmt: skip
    logger.info("Registered %s: %d images, %d classes.", name, len(checked.dataset_dicts), len(checked.classes))

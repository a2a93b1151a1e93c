"""Checking a data set in PASCAL VOC's format: a list of images, and an XML file for each.

Errors keep the set from being used; warnings say what is left out or adjusted. Boxes go through the checks of COCO's
(``validate_annotations.py``). Nothing is written to the user's files.
"""

import dataclasses
import os
from collections.abc import Sequence

from ..d2.structures import BoxMode
from ..errors import UserError
from .annotation_form import Kept, plain, short
from .image_files import leaves, listing
from .json_file import read_bytes
from .report import Report
from .validate import CheckedCoco
from .validate_annotations import check_boxes
from .voc_xml import Fault, VocImage, read_voc_xml

__all__ = ["folder_of", "is_image_set", "validate_voc"]

_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")


@dataclasses.dataclass
class _Object(Kept):
    """An object on its way through the checks of boxes; ``raw`` has its file, number, class and difficulty."""

    @property
    def where(self) -> str:
        return f"{self.raw['file']}: object {self.raw['number']} ({plain(self.raw['name'])})"

    @property
    def shown_box(self) -> str:
        return f"[{', '.join(f'{value:g}' for value in self.raw['box'])}]"

    @property
    def corners(self) -> list[float]:
        """Corners on continuous axes from 0; to the last digit those of the file where nothing was clipped."""
        x, y, width, height = self.box
        x1, y1 = self.raw["box"][2:]
        return [x, y, x1, y1] if self.box == _on_axes(self.raw["box"]) else [x, y, x + width, y + height]


def _on_axes(box: Sequence[float]) -> list[float]:
    """Return x, y, width, height on continuous axes from 0 of the pixels x0 to x1, y0 to y1, counted from 1."""
    x0, y0, x1, y1 = box
    return [x0 - 1, y0 - 1, x1 - x0 + 1, y1 - y0 + 1]


def is_image_set(path: str) -> bool:
    """Whether ``path`` names a list of images of VOC's format, or a folder to look for one, not COCO's JSON file."""
    return path.lower().endswith(".txt") or os.path.isdir(path)


def folder_of(image_set: str) -> str | None:
    """Return the folder with ``Annotations`` in it, of those above the list ``image_set`` the nearest; None: none."""
    folder = os.path.dirname(image_set)
    for _ in range(4):
        if os.path.isdir(os.path.join(folder, "Annotations")):
            return folder
        folder = os.path.normpath(os.path.join(folder, os.pardir))
    return None


def validate_voc(
    image_set: str,
    image_root: str,
    *,
    folder: str | None = None,
    classes: Sequence[str] | None = None,
    use_difficult: bool = False,
    check_files: bool = True,
    max_examples: int = 5,
    allow_outside: bool = False,
) -> CheckedCoco:
    """Check the images that the list ``image_set`` names, whose files lie in ``image_root``.

    Boxes in the files are pixels counted from 1, both ends in the box; those of the dicts are corners on continuous
    axes from 0 (xmin - 1, ymin - 1, xmax, ymax), as Detectron2 converts them. Annotations have a "difficult" of 0 or 1
    beside Detectron2's keys.

    Args:
        image_set: a text file with a name on each line, such as ``ImageSets/Main/train.txt``.
        folder: has ``Annotations/NAME.xml``. None: the nearest folder above the list with ``Annotations`` in it.
        classes: the model's classes in their order. None: the names in the files, sorted.
        use_difficult: whether difficult objects are trained on; else they get an "iscrowd" of 1, which leaves them
            out of training as it does crowds.
        check_files: also look for the image files (one listing per folder; none is opened).
        max_examples: sentences kept per kind of problem; all are counted.
        allow_outside: accept names that leave ``image_root``.

    Returns:
        The dicts in the order of the list; ``source`` and ``repaired`` are None.
    """
    found = folder_of(image_set) if folder is None else folder
    report = Report(image_set if found is None else found or ".", max_examples)
    checked = CheckedCoco(report)
    if os.path.isdir(image_set):
        sentence = "this is a folder; name COCO's JSON file, or a list of images such as VOC's ImageSets/Main/train.txt"
        report.error("not a file", sentence)
        return checked
    if found is None:
        sentence = "no folder above this list has a folder Annotations; move it to ImageSets/Main beside Annotations"
        report.error("no annotations", sentence)
        return checked
    names = _names(image_set, found, report, allow_outside)
    images = _read(names, found, report)
    objects = _objects(images, report)
    _check_counting(objects, report)
    checked.classes = list(classes) if classes is not None else sorted({k.raw["name"] for k in objects})
    checked.category_ids = {index + 1: index for index in range(len(checked.classes))}
    if images and not checked.classes:
        report.error("no objects", "the images of the list have no object, so there are no classes; annotate some")
    index_of = {name: index for index, name in enumerate(checked.classes)}
    for k in objects:
        if k.raw["name"] not in index_of:
            some = ", ".join(checked.classes[:20]) + (", ..." if len(checked.classes) > 20 else "")
            report.error("class unknown", f"{k.where}: this class is not one of {some}; rename it or name the classes")
    known = [k for k in objects if k.raw["name"] in index_of]
    check_boxes(known, report)
    files = _files(images, image_root, report) if check_files else {}
    checked.dataset_dicts = _dicts(images, known, index_of, files, image_root, use_difficult)
    return checked


def _names(image_set: str, folder: str, report: Report, allow_outside: bool) -> list[str]:
    """Return the names of the list, each once."""
    try:
        lines = read_bytes(image_set).decode("utf-8-sig").splitlines()
    except UserError as error:
        sentence = str(error).removeprefix(f"{image_set}: ").replace("annotation file", "list of images")
        report.error("list unreadable", f"{image_set}: {sentence}")
        return []
    except UnicodeDecodeError:
        report.error("list unreadable", f"{image_set}: this is no text in UTF-8; it should have an image name a line")
        return []
    names: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        name, where = line.strip(), f"{image_set}, line {number}"
        words = name.split()
        if not name:
            continue
        if len(words) == 2 and words[1] in ("-1", "0", "1") and not os.path.exists(_xml(folder, name)):
            report.error(
                "list of one class",
                f"{where}: {short(name)} is from a list of one class; name the list of all, such as train.txt",
            )
        elif not name.isprintable():
            report.error("image name", f"{where}: {short(name)} cannot be an image's name; correct the list")
        elif name in names:
            report.error("image twice", f"{where}: {short(name)} is on line {names[name]} already; remove one")
        elif not allow_outside and leaves(name):
            report.error(
                "image file outside",
                f"{where}: {short(name)} leaves the folders of images and annotations; correct it, or add "
                "--allow-outside (in Python, allow_outside=True)",
            )
        else:
            names[name] = number
    if not names and report.ok:
        report.error("no images", f"{image_set}: the list is empty; there is nothing to train on or to evaluate")
    return list(names)


def _xml(folder: str, name: str) -> str:
    return os.path.join(folder, "Annotations", f"{name}.xml")


def _read(names: list[str], folder: str, report: Report) -> dict[str, VocImage]:
    """Return image name -> content of its file, of those without a fault."""
    images = {}
    for name in names:
        try:
            images[name] = read_voc_xml(_xml(folder, name))
        except Fault as fault:
            report.error(fault.kind, f"Annotations/{name}.xml: {fault}")
    return images


def _objects(images: dict[str, VocImage], report: Report) -> list[_Object]:
    objects = []
    for name, image in images.items():
        entry = {"id": name, "width": image.width, "height": image.height}
        for number, found in enumerate(image.objects, 1):
            raw = {"file": f"Annotations/{name}.xml", "number": number, "image_id": name, **dataclasses.asdict(found)}
            objects.append(_Object(raw, entry, _on_axes(found.box), None, 0))
    return objects


def _check_counting(objects: list[_Object], report: Report) -> None:
    """Report coordinates that are not pixels counted from 1."""
    large = [k for k in objects if min(k.image["width"], k.image["height"]) >= 4]
    shares = sum(all(0 <= value <= 1 for value in k.raw["box"]) for k in large)
    if shares > len(large) / 2:
        report.error(
            "coordinates in 0 to 1",
            f"the coordinates of {shares} of {len(large)} boxes are between 0 and 1; VOC's are pixels, multiply them "
            "by the image's width and height",
        )
        return
    for k in objects:
        if 0 in k.raw["box"][:2]:
            report.warning(
                "box from 0",
                f"{k.where}: its box {k.shown_box} starts at 0, and VOC counts pixels from 1; if all of the set do, "
                "add 1 to xmin and ymin",
            )


def _files(images: dict[str, VocImage], image_root: str, report: Report) -> dict[str, str]:
    """Return image name -> file, that with VOC's .jpg where there is one."""
    by_stem: dict[str, dict[str, list[str]]] = {}
    listings: dict[str, set[str] | None] = {}
    files = {}
    for name in images:
        folder, stem = os.path.split(os.path.join(image_root, name))
        if folder not in by_stem:
            here = listing(folder, listings)
            if here is None:
                sentence = f"there is no folder {plain(folder) or '.'} to take images from; check the path"
                report.error("image folder missing", sentence)
            by_stem[folder] = _by_stem(here or ())
        found = by_stem[folder].get(stem)
        if found:
            files[name] = os.path.join(folder, found[0])
        elif listings[folder] is not None:
            report.error(
                "image file missing",
                f"image {plain(name)}: there is no file {plain(stem)}.jpg in {plain(folder) or '.'}; copy it there, or "
                "take the image out of the list",
            )
    return files


def _by_stem(names: Sequence[str] | set[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name in names:
        stem, suffix = os.path.splitext(name)
        if suffix.lower() in _SUFFIXES:
            found.setdefault(stem, []).append(name)
    for same in found.values():
        same.sort(key=lambda name: (_SUFFIXES.index(os.path.splitext(name)[1].lower()), name))
    return found


def _dicts(
    images: dict[str, VocImage],
    objects: list[_Object],
    index_of: dict[str, int],
    files: dict[str, str],
    image_root: str,
    use_difficult: bool,
) -> list[dict]:
    by_image: dict[str, list[dict]] = {name: [] for name in images}
    for k in objects:
        if k.dropped:
            continue
        by_image[k.raw["image_id"]].append(
            {
                "bbox": k.corners,
                "bbox_mode": BoxMode.XYXY_ABS,
                "category_id": index_of[k.raw["name"]],
                "difficult": int(k.raw["difficult"]),
                "iscrowd": int(k.raw["difficult"] and not use_difficult),
            }
        )
    return [
        {
            "file_name": files.get(name, os.path.join(image_root, f"{name}.jpg")),
            "image_id": name,
            "height": image.height,
            "width": image.width,
            "annotations": by_image[name],
        }
        for name, image in images.items()
    ]

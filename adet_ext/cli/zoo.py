"""``zoo``: list the trained models, and evaluate them against the figures on record."""

import argparse
import os
import statistics
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..engine.predictor import Predictor
from ..engine.zoo_evaluation import Comparison, evaluate_foreign, evaluate_trained, has_data
from ..errors import UserError
from ..model_zoo import get_config
from ..trained import list_trained, why_not, zoo_place
from ..utils.table import text_table

__all__ = ["build_parser", "main"]

_SPEED_SIZE = (480, 640)  # of the image that times are for
_SPEED_ROUNDS = 9


def build_parser() -> argparse.ArgumentParser:
    """The command line of ``zoo``."""
    parser = argparse.ArgumentParser(description="List the trained models, or evaluate them.")
    parser.add_argument("--speed", action="store_true", help="also measure milliseconds per image on this machine")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    check = commands.add_parser("eval", help="evaluate models and compare with the figures on record")
    check.add_argument("names", nargs="*", metavar="NAME", help="trained models (default: all whose data are in DIR)")
    check.add_argument("--data", metavar="DIR", help="the folder that 'data prepare-...' made, or one with several")
    check.add_argument(
        "--weights",
        metavar="FILE",
        help="a checkpoint of AdelaiDet's or Detectron2's zoo at hand; NAME is then the config, such as "
        "BlendMask/R_50_1x.yaml, and the data COCO's in the folder of DETECTRON2_DATASETS",
    )
    check.add_argument("--output-dir", default="zoo_evaluation", metavar="DIR", help="for results (%(default)s)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``zoo`` and return the exit status: 1 where a figure differs from the one on record."""
    arguments = build_parser().parse_args(argv)
    if arguments.command != "eval":
        return _list(arguments.speed)
    if arguments.weights:
        if len(arguments.names) != 1:
            raise UserError(f"--weights needs the name of one config; got {len(arguments.names)}")
        return _report([evaluate_foreign(arguments.names[0], arguments.weights, arguments.output_dir)])
    if not arguments.data:
        raise UserError("zoo eval needs --data DIR, the folder that 'python -m adet_ext data prepare-...' made")
    # Each name in full first, so that a misspelled one costs nothing.
    names = [_known(name) for name in arguments.names] or _those_with_data(arguments.data)
    return _report([evaluate_trained(name, arguments.data, arguments.output_dir) for name in names])


def _known(name: str) -> str:
    get_config(name, trained=True)
    return name


def _those_with_data(data: str) -> list[str]:
    """Return the models whose data are in a folder, and say which others are left out."""
    names = []
    for name, entry in sorted(list_trained().items()):
        if reason := why_not(name, entry):
            print(f"left out: {reason}")
        elif has_data(_known(name), data):
            names.append(name)
        else:
            print(f"left out: {name}, whose data are not in {data}")
    if not names:
        raise UserError(f"--data {data} has the data of no model; make a set by 'python -m adet_ext data prepare-...'")
    return names


def _list(speed: bool) -> int:
    index = list_trained()
    rows = [["name", "task", "data", "MB", "figures", *(["ms/image here"] if speed else [])]]
    for name, entry in sorted(index.items()):
        figures = ", ".join(f"{figure} {value:.1f}" for figure, value in entry["figures"].items())
        row = [name, entry["task"], entry["data"], f"{entry['bytes'] / 1e6:.1f}", figures]
        if speed:
            row.append("-" if why_not(name, entry) else f"{_milliseconds(name):.0f}")
        rows.append(row)
    print(text_table(rows, left=5))
    print(f"\nfrom {zoo_place()}; python -m adet_ext demo PHOTO --model NAME draws what one predicts")
    return 0


def _milliseconds(name: str) -> float:
    """Return the median time of a prediction, from an image in memory to masks, after two that warm up."""
    predictor = Predictor(get_config(name, trained=True))
    image = np.random.default_rng(0).integers(0, 256, (*_SPEED_SIZE, 3), dtype=np.uint8)
    times = []
    for _ in range(_SPEED_ROUNDS + 2):
        begin = time.perf_counter()
        predictor(image)
        times.append(1000 * (time.perf_counter() - begin))
    return statistics.median(times[2:])


def _report(comparisons: Sequence[Comparison]) -> int:
    rows = [["model", "figure", "on record", "here", ""]]
    for comparison in comparisons:
        for figure, (wanted, found) in comparison.figures.items():
            rows.append([comparison.name, figure, *map(_shown, (wanted, found)), _verdict(wanted, found)])
    print(text_table(rows, left=2))
    differs = any(row[-1].startswith("differs") for row in rows)
    print(f"\n{len(comparisons)} evaluated; " + ("figures differ" if differs else "no figure differs"))
    print(f"detections are in {os.path.abspath(comparisons[0].folder)}" if comparisons else "")
    return int(differs)


def _shown(value: Any) -> str:
    return "-" if value is None else f"{value:.1f}"


def _verdict(wanted: float | None, found: float | None) -> str:
    """Compare as printed: to one decimal."""
    if wanted is None:
        return "not on record"
    if found is None:
        return "differs: none here"
    difference = round(found, 1) - round(wanted, 1)
    return "equal" if abs(difference) < 0.05 else f"differs by {difference:+.1f}"

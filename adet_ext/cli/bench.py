"""Time models against one another: evaluation of the same images, in paired rounds, each model in its own process.

With --runs each model is timed eager and in other runtimes, with --steps from the image's file to a drawing.
"""

import argparse
import contextlib
import importlib.util
import json
import os
import tempfile
from collections.abc import Sequence
from typing import Any

import torch
from tqdm import tqdm

from ..benchmark.clock import ClockWatch
from ..benchmark.inputs import make_inputs
from ..benchmark.paired import Partner, run_rounds
from ..benchmark.report import partner_rows, render
from ..benchmark.rivals import MASK_RCNN, PANOPTIC_FPN, TORCHVISION
from ..benchmark.runtimes import RUNS, check_runs, prepare_runs
from ..benchmark.steps import STEPS
from ..benchmark.worker import STAGES
from ..d2 import ENGINE
from ..errors import UserError
from ..utils.files import make_folder, written_beside
from ..utils.machine import processor_name
from . import bench_ops, bench_shift

__all__ = ["build_parser", "main"]

_RIVALS = {
    "against_maskrcnn": ("Mask R-CNN R-50-FPN", MASK_RCNN, "detectron2"),
    "against_panoptic_fpn": ("Panoptic-FPN R-50", PANOPTIC_FPN, "detectron2"),
    "against_torchvision": ("torchvision's Mask R-CNN R-50-FPN", TORCHVISION, "embedded"),
}  # label, config and engine by option


def build_parser() -> argparse.ArgumentParser:
    """Return the command line of the benchmarks."""
    parser = argparse.ArgumentParser(description="Time models or operators; measure shift consistency.")
    verbs = parser.add_subparsers(dest="what", required=True, metavar="{models,ops,shift}")
    models = verbs.add_parser("models", help="time whole models", description=__doc__)
    models.add_argument("--config-file", nargs="+", required=True, metavar="FILE", help="YAML files, or packaged names")
    models.add_argument("--height", type=int, default=800, help="of the network's input (800)")
    models.add_argument("--width", type=int, default=1088, help="of the network's input (1088)")
    models.add_argument("--batch", type=int, default=1, help="images in one pass (1)")
    models.add_argument("--images", nargs="+", default=[], metavar="IMAGE", help="real pictures; noise if left out")
    models.add_argument("--rounds", type=int, default=20, help="paired rounds that count (20)")
    models.add_argument("--warmup", type=int, default=3, help="rounds before them that do not (3)")
    models.add_argument("--threads", type=int, help="threads of torch")
    models.add_argument("--device", default="cpu", help="cpu or cuda (cpu)")
    models.add_argument("--seed", type=int, default=0, help="of the random weights and the noise (0)")
    models.add_argument(
        "--detections",
        type=int,
        nargs=2,
        default=(60, 80),
        metavar=("LOW", "HIGH"),
        help="random weights are calibrated to find between LOW and HIGH objects an image (60 80); 0 0: as they are",
    )
    models.add_argument("--runs", nargs="+", metavar="RUN", help=f"each model in these ways: {', '.join(RUNS)}")
    models.add_argument(
        "--steps", action="store_true", help=f"time {', '.join(STEPS)} of --images, one by one, and not a batch alone"
    )
    models.add_argument("--engine-compare", action="store_true", help="each config on Detectron2 and embedded")
    models.add_argument("--against-maskrcnn", action="store_true", help="against Detectron2's Mask R-CNN R-50-FPN")
    models.add_argument("--against-panoptic-fpn", action="store_true", help="against Detectron2's Panoptic-FPN R-50")
    models.add_argument("--against-torchvision", action="store_true", help="against torchvision's Mask R-CNN R-50-FPN")
    models.add_argument("--json", metavar="FILE", help="write all the numbers here as well")
    models.add_argument("--opts", nargs=argparse.REMAINDER, default=[], metavar="KEY VALUE", help="overrides, for all")
    bench_ops.add_parser(verbs)
    bench_shift.add_parser(verbs)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run a benchmark, print its table and write its numbers where asked."""
    arguments = build_parser().parse_args(argv)
    if arguments.what == "ops":
        return bench_ops.run(arguments)
    if arguments.what == "shift":
        return bench_shift.run(arguments)
    _check(arguments)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    clock = ClockWatch()
    with contextlib.ExitStack() as stack:
        partners = _partners(arguments, stack.enter_context(tempfile.TemporaryDirectory()))
        for partner in partners:
            partner.start()
            stack.callback(partner.stop)
        _prepare(partners, arguments)
        bar = stack.enter_context(tqdm(total=arguments.rounds + arguments.warmup, desc="rounds"))

        def tick() -> None:
            clock.look()
            bar.update()

        run_rounds(partners, arguments.rounds, arguments.warmup, tick, "steps" if arguments.steps else "time")
    report = _report(partners, arguments, clock)
    print(render(report))
    if arguments.json:
        make_folder(os.path.dirname(os.path.abspath(arguments.json)))
        with written_beside(arguments.json) as beside, open(beside, "w", encoding="utf-8") as file:
            json.dump(report, file, indent=2)
    return 0


def _check(arguments: argparse.Namespace) -> None:
    """Raise UserError for options that do not fit."""
    if arguments.rounds < 1 or arguments.warmup < 0:
        raise UserError(
            f"--rounds must be 1 or more, --warmup 0 or more; got {arguments.rounds} and {arguments.warmup}"
        )
    if arguments.steps and not arguments.images:
        raise UserError("--steps must come with --images IMAGE ..., whose files are read")
    theirs = arguments.engine_compare or arguments.against_maskrcnn or arguments.against_panoptic_fpn
    if theirs and importlib.util.find_spec("detectron2") is None:
        raise UserError("a comparison with Detectron2 must have it installed; got none. Install it, or omit the option")
    if arguments.engine_compare and (arguments.runs or any(getattr(arguments, name) for name in _RIVALS)):
        raise UserError("--engine-compare must come without --runs and rivals")
    if arguments.runs:
        check_runs(arguments.runs)
        if arguments.device != "cpu" or arguments.batch != 1:
            raise UserError("--runs must come with --device cpu and --batch 1")


def _partners(arguments: argparse.Namespace, folder: str) -> list[Partner]:
    """Return the contestants; the others are compared with the first."""
    configs, opts = arguments.config_file, arguments.opts
    if arguments.engine_compare:
        return [
            Partner(f"{config} ({engine})", config, engine, opts)
            for config in configs
            for engine in ("detectron2", "embedded")
        ]
    theirs = [Partner(*rival) for name, rival in _RIVALS.items() if getattr(arguments, name)]
    if not arguments.runs:
        return [*theirs, *(Partner(config, config, ENGINE, opts) for config in configs)]
    ours = []
    torch.manual_seed(arguments.seed)
    inputs = make_inputs(arguments.images, arguments.height, arguments.width, 1, arguments.seed)
    for number, config in enumerate(tqdm(configs, desc="exporting")):
        made, weights = prepare_runs(
            config, opts, arguments.runs, inputs, tuple(arguments.detections), os.path.join(folder, str(number))
        )
        with_weights = [*opts, "MODEL.WEIGHTS", weights]
        ours += [Partner(f"{config} ({run})", name, ENGINE, with_weights) for run, name in made.items()]
    return [*theirs, *ours]


def _prepare(partners: list[Partner], arguments: argparse.Namespace) -> None:
    """Build and calibrate every model. Partners of one config, on two engines, get the same weights."""
    low, high = arguments.detections
    names = ("height", "width", "batch", "images", "threads", "device", "seed")
    shared = {name: getattr(arguments, name) for name in names}
    with tempfile.TemporaryDirectory() as folder:
        saved: dict[str, str] = {}
        for partner in tqdm(partners, desc="building and calibrating"):
            partner.facts = partner.ask("build", config=partner.config, opts=partner.opts, **shared)
            if partner.facts["trained"]:
                continue
            if partner.config in saved:
                partner.ask("load", path=saved[partner.config])
                continue
            if high > 0:
                partner.ask("calibrate", low=low, high=high)
            saved[partner.config] = os.path.join(folder, f"{len(saved)}.pth")
            partner.ask("save", path=saved[partner.config])


def _report(partners: list[Partner], arguments: argparse.Namespace, clock: ClockWatch) -> dict[str, Any]:
    facts = partners[0].facts
    baselines = {partner.label: partners[0] for partner in partners}
    if arguments.engine_compare:
        first = {partner.config: partner for partner in reversed(partners)}
        baselines = {partner.label: first[partner.config] for partner in partners}
    return {
        "machine": f"{processor_name()}, {os.cpu_count()} cores" if facts["device"] == "CPU" else facts["device"],
        "threads": facts["threads"],
        "torch": facts["torch"],
        "height": arguments.height,
        "width": arguments.width,
        "batch": 1 if arguments.steps else len(arguments.images) or arguments.batch,
        "images": "real" if arguments.images else "noise",
        "rounds": arguments.rounds,
        "warmup": arguments.warmup,
        "note": clock.note(),
        "rows": partner_rows(partners, baselines, STEPS if arguments.steps else STAGES),
    }

"""Time models against one another: evaluation of the same images, in paired rounds, each model in its own process."""

import argparse
import contextlib
import importlib.util
import json
import os
import tempfile
from collections.abc import Sequence
from typing import Any

from tqdm import tqdm

from ..benchmark.paired import Partner, ratios, run_rounds, spread
from ..d2 import ENGINE
from ..errors import UserError
from ..utils.files import make_folder, written_beside
from ..utils.machine import processor_name
from ..utils.table import text_table
from . import bench_ops, bench_shift

__all__ = ["build_parser", "main"]

MASK_RCNN = "detectron2:COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x.yaml"
PANOPTIC_FPN = "detectron2:COCO-PanopticSegmentation/panoptic_fpn_R_50_3x.yaml"
STAGES = ("preprocess", "backbone", "heads", "postprocess")


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
    pairing = models.add_mutually_exclusive_group()
    pairing.add_argument("--engine-compare", action="store_true", help="each config on Detectron2 and embedded")
    pairing.add_argument("--against-maskrcnn", action="store_true", help="against Detectron2's Mask R-CNN R-50-FPN")
    pairing.add_argument("--against-panoptic-fpn", action="store_true", help="against Detectron2's Panoptic-FPN R-50")
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
    if arguments.rounds < 1 or arguments.warmup < 0:
        raise UserError(
            f"--rounds must be 1 or more, --warmup 0 or more; got {arguments.rounds} and {arguments.warmup}"
        )
    partners = _partners(arguments)
    with contextlib.ExitStack() as stack:
        for partner in partners:
            partner.start()
            stack.callback(partner.stop)
        _prepare(partners, arguments)
        with tqdm(total=arguments.rounds + arguments.warmup, desc="rounds") as bar:
            run_rounds(partners, arguments.rounds, arguments.warmup, bar.update)
    report = _report(partners, arguments)
    print(_render(report))
    if arguments.json:
        make_folder(os.path.dirname(os.path.abspath(arguments.json)))
        with written_beside(arguments.json) as beside, open(beside, "w", encoding="utf-8") as file:
            json.dump(report, file, indent=2)
    return 0


def _partners(arguments: argparse.Namespace) -> list[Partner]:
    """Return the contestants; the others are compared with the first."""
    configs, opts = arguments.config_file, arguments.opts
    rivals = {"Mask R-CNN R-50-FPN": MASK_RCNN} if arguments.against_maskrcnn else {}
    if arguments.against_panoptic_fpn:
        rivals = {"Panoptic-FPN R-50": PANOPTIC_FPN}
    if (arguments.engine_compare or rivals) and importlib.util.find_spec("detectron2") is None:
        raise UserError("a comparison with Detectron2 must have it installed; got none. Install it, or omit the option")
    if arguments.engine_compare:
        return [
            Partner(f"{config} ({engine})", config, engine, opts)
            for config in configs
            for engine in ("detectron2", "embedded")
        ]
    theirs = [Partner(label, config, "detectron2") for label, config in rivals.items()]
    return [*theirs, *(Partner(config, config, ENGINE, opts) for config in configs)]


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


def _report(partners: list[Partner], arguments: argparse.Namespace) -> dict[str, Any]:
    facts = partners[0].facts
    rows = []
    for partner in partners:
        baseline = partners[0]
        if arguments.engine_compare:
            baseline = next(other for other in partners if other.config == partner.config)
        times = [result["total"] for result in partner.rounds]
        rows.append(
            {
                "label": partner.label,
                "config": partner.config,
                "opts": partner.opts,
                "engine": partner.facts["engine"],
                "trained": partner.facts["trained"],
                "ms": vars(spread(times)),
                "stages": {stage: spread([result[stage] for result in partner.rounds]).median for stage in STAGES},
                "detections": partner.rounds[-1]["detections"],
                "box_side": partner.rounds[-1]["box"],
                "compared_with": baseline.label,
                "ratio": vars(ratios(times, [result["total"] for result in baseline.rounds])),
            }
        )
    return {
        "machine": f"{processor_name()}, {os.cpu_count()} cores" if facts["device"] == "CPU" else facts["device"],
        "threads": facts["threads"],
        "torch": facts["torch"],
        "height": arguments.height,
        "width": arguments.width,
        "batch": len(arguments.images) or arguments.batch,
        "images": "real" if arguments.images else "noise",
        "rounds": arguments.rounds,
        "rows": rows,
    }


def _render(report: dict[str, Any]) -> str:
    table = [["model", "ms", "quartiles", *STAGES, "found", "box side", "ratio", "quartiles"]]
    for row in report["rows"]:
        ms, ratio = row["ms"], row["ratio"]
        table.append(
            [
                row["label"],
                f"{ms['median']:.1f}",
                f"{ms['lower']:.1f}-{ms['upper']:.1f}",
                *(f"{row['stages'][stage]:.1f}" for stage in STAGES),
                f"{row['detections']:g}",
                f"{row['box_side']:.0f}",
                f"{ratio['median']:.3f}",
                f"{ratio['lower']:.3f}-{ratio['upper']:.3f}",
            ]
        )
    lines = [
        text_table(table),
        "",
        f"{report['height']} x {report['width']}, batch {report['batch']}, {report['images']}; "
        f"{report['rounds']} paired rounds; {report['machine']}, {report['threads']} threads, torch {report['torch']}",
        "medians; 'found' is detections an image, 'box side' the mean square root of their areas in pixels; 'ratio' is "
        "the median over rounds of the time to that of the first model (of the same config)",
    ]
    return "\n".join(lines)

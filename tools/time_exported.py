"""Time models eager, compiled, in onnxruntime and OpenVINO, also int8 and bfloat16, over Mask R-CNN in paired rounds.

    python tools/time_exported.py --files exported --prepare           # exports and compiles; the machine may be busy
    python tools/time_exported.py --files exported --json times.json   # on an idle machine, in at most 10 minutes

Without --prepare what is missing is made first. Weights are random, calibrated to 60 to 80 detections an image of
noise, and the same for all runs of a model. The rival is Detectron2's Mask R-CNN R-50-FPN where it is installed, else,
or with --torchvision, that of torchvision. "first mask" is the time from the start of a process to its first result;
what has been compiled before is found in the folder. The JSON file is written after every round, and so has what there
is when the run is cut.
"""

import argparse
import importlib.util
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch

from adet_ext.benchmark.clock import ClockWatch
from adet_ext.benchmark.inputs import make_inputs
from adet_ext.benchmark.paired import Partner, ratios, run_rounds, spread
from adet_ext.benchmark.rivals import MASK_RCNN, TORCHVISION
from adet_ext.benchmark.runtimes import RUNS, check_runs, prepare_runs
from adet_ext.cli import run_program
from adet_ext.d2 import ENGINE
from adet_ext.export.files import file_of
from adet_ext.utils.files import written_beside
from adet_ext.utils.machine import processor_name

MODELS = ("BlendMask/R_50_1x.yaml", "DR1Mask/R_50_1x.yaml", "SmalMask/SmalMask2_RT_R_50_1x.yaml")
SIZES = ((800, 1088), (550, 730))
_RIVAL = "Mask R-CNN"
_RESERVE = 10.0  # seconds to stop the processes in


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", required=True, metavar="FOLDER", help="of weights, exported files, compiled code")
    parser.add_argument("--prepare", action="store_true", help="fill the folder and time nothing")
    parser.add_argument("--config-file", nargs="+", default=MODELS, help=f"({' '.join(MODELS)})")
    parser.add_argument("--size", type=int, nargs=2, action="append", help="of the images; may come again (800 1088)")
    parser.add_argument("--runs", nargs="+", default=[name for name in RUNS if name != "pt2"], help=f"of {RUNS}")
    parser.add_argument("--torchvision", action="store_true", help="take torchvision's Mask R-CNN as the rival")
    parser.add_argument("--minutes", type=float, default=10.0, help="in which all is timed (10)")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--detections", type=int, nargs=2, default=(60, 80), metavar=("LOW", "HIGH"))
    parser.add_argument("--json", help="write the numbers here as well")
    arguments = parser.parse_args()
    arguments.size = [tuple(size) for size in arguments.size or SIZES]
    return arguments


class Timing:
    """The processes and results of one run of this tool."""

    def __init__(self, arguments: argparse.Namespace):
        self.arguments = arguments
        self.folder = Path(arguments.files)
        self.clock = ClockWatch()
        self.groups: list[dict[str, Any]] = []
        theirs = importlib.util.find_spec("detectron2") is not None and not arguments.torchvision
        self.rival = (MASK_RCNN, "detectron2") if theirs else (TORCHVISION, "embedded")

    def place(self, config: str, size: tuple[int, int]) -> Path:
        """Return the folder of a model's files."""
        return self.folder / f"{config.replace('/', '_').removesuffix('.yaml')}_{size[0]}x{size[1]}"

    def runs_of(self, config: str, size: tuple[int, int]) -> dict[str, Partner]:
        """Return the contestants of a model; their files are made where they are missing."""
        torch.manual_seed(0)
        names, weights = prepare_runs(
            config, [], self.arguments.runs, make_inputs((), *size), self.arguments.detections, self.place(config, size)
        )
        return {run: Partner(run, name, ENGINE, ["MODEL.WEIGHTS", weights]) for run, name in names.items()}

    def start(self, partner: Partner, size: tuple[int, int], weights: Path | None = None) -> float:
        """Start a contestant, with these weights if given; return the seconds to its first result."""
        begin = time.perf_counter()
        partner.start()
        partner.facts = partner.ask(
            "build", config=partner.config, opts=partner.opts, height=size[0], width=size[1], batch=1, images=[],
            threads=self.arguments.threads, device="cpu", seed=0,
        )  # fmt: skip
        if weights is not None:
            partner.ask("load", path=str(weights))
        partner.ask("time")
        return time.perf_counter() - begin

    def start_rival(self, size: tuple[int, int]) -> tuple[Partner, float]:
        """Start the rival with the weights in the folder, which it is calibrated to where they are missing."""
        config, engine = self.rival
        weights = self.folder / f"rival_{engine}_{size[0]}x{size[1]}.pth"
        if not weights.is_file():
            partner = Partner(_RIVAL, config, engine)
            try:
                self.start(partner, size)
                low, high = self.arguments.detections
                partner.ask("calibrate", low=low, high=high)
                partner.ask("save", path=str(weights))
            finally:
                partner.stop()
        partner = Partner(_RIVAL, config, engine)
        return partner, self.start(partner, size, weights)

    def prepare(self) -> None:
        """Make all files, and let all that compiles do so once."""
        for size in self.arguments.size:
            rival, _ = self.start_rival(size)
            rival.stop()
            for config in self.arguments.config_file:
                partner = self.runs_of(config, size).get("compiled")
                if partner is not None:
                    try:
                        self.start(partner, size)
                    finally:
                        partner.stop()
                print(f"prepared {config} at {size[0]} x {size[1]}", flush=True)

    def time_all(self) -> None:
        """Time one model after the other at one size after the other, each for a share of the time by its pixels."""
        end = time.monotonic() + 60 * self.arguments.minutes - _RESERVE
        left = sum(h * w for h, w in self.arguments.size) * len(self.arguments.config_file)
        for size in self.arguments.size:
            rival, first = self.start_rival(size)
            try:
                for config in self.arguments.config_file:
                    now, pixels = time.monotonic(), size[0] * size[1]
                    if now >= end:
                        print(f"no time is left for {config} at {size[0]} x {size[1]}; give more --minutes", flush=True)
                        continue
                    self._time_group(config, size, rival, first, now + (end - now) * pixels / left)
                    left -= pixels
            finally:
                rival.stop()

    def _time_group(self, config: str, size: tuple[int, int], rival: Partner, first: float, deadline: float) -> None:
        partners = self.runs_of(config, size)
        seconds = {_RIVAL: first}
        rival.rounds = []
        group = {"config": config, "size": size, "rival": self.rival[0], "rows": []}
        self.groups.append(group)
        try:
            for run, partner in partners.items():
                seconds[run] = self.start(partner, size)
            everyone = [rival, *partners.values()]
            while not rival.rounds or time.monotonic() < deadline:
                run_rounds(everyone, 1, 0, self.clock.look)
                group["rows"] = [self._row(partner, everyone, seconds) for partner in everyone]
                self.write()
                everyone.reverse()
        finally:
            for partner in partners.values():
                partner.stop()

    def _row(self, partner: Partner, everyone: list[Partner], seconds: dict[str, float]) -> dict[str, Any]:
        totals = {one.label: [result["total"] for result in one.rounds] for one in everyone}
        path = Path(file_of(partner.config))
        if not path.is_file() and partner.opts:
            path = Path(partner.opts[1])
        mine = totals[partner.label]
        return {
            "run": partner.label,
            "rounds": len(mine),
            "ms": vars(spread(mine)),
            "over": {name: vars(ratios(mine, totals[name])) for name in (_RIVAL, "eager") if name in totals},
            "found": partner.rounds[-1]["detections"],
            "MiB": path.stat().st_size / 2**20 if path.is_file() else None,
            "first_mask_seconds": seconds[partner.label],
        }

    def report(self) -> dict[str, Any]:
        machine = f"{processor_name()}, {self.arguments.threads} threads, torch {torch.__version__}, {ENGINE} engine"
        return {"machine": machine, "note": self.clock.note(), "groups": self.groups}

    def write(self) -> None:
        if self.arguments.json:
            with written_beside(self.arguments.json) as beside:
                Path(beside).write_text(json.dumps(self.report(), indent=1), encoding="utf-8")


def markdown(report: dict[str, Any]) -> str:
    """Return the table of a report."""
    head = ("model", "size", "run", "ms", "quartiles", f"over {_RIVAL}", "over eager", "found", "MiB", "first mask, s")
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for group in report["groups"]:
        for row in group["rows"]:
            over = [f"{row['over'][name]['median']:.3f}" if name in row["over"] else "" for name in (_RIVAL, "eager")]
            cells = [
                group["config"].removesuffix(".yaml"), f"{group['size'][0]} x {group['size'][1]}", row["run"],
                f"{row['ms']['median']:.0f}", f"{row['ms']['lower']:.0f}-{row['ms']['upper']:.0f}", *over,
                f"{row['found']:g}", "" if row["MiB"] is None else f"{row['MiB']:.0f}",
                f"{row['first_mask_seconds']:.1f}",
            ]  # fmt: skip
            lines.append(f"| {' | '.join(cells)} |")
    rounds = sorted({row["rounds"] for group in report["groups"] for row in group["rows"]})
    lines += ["", f"{report['machine']}; {' to '.join(map(str, rounds[:1] + rounds[1:][-1:])) or 'no'} rounds"]
    return "\n".join([*lines, *([report["note"]] if report["note"] else [])])


def main() -> int:
    arguments = parse()
    check_runs(arguments.runs)
    torch.set_num_threads(arguments.threads)
    os.makedirs(arguments.files, exist_ok=True)
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = os.path.abspath(os.path.join(arguments.files, "inductor"))
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends as Ctrl-C does: with a table of what there is
    timing = Timing(arguments)
    if arguments.prepare:
        timing.prepare()
        return 0
    try:
        timing.time_all()
    except KeyboardInterrupt:
        print("cut; what there is:", flush=True)
    timing.write()
    print(markdown(timing.report()))
    return 0


if __name__ == "__main__":
    sys.exit(run_program("time_exported", main))

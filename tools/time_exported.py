"""Time a model eager, compiled, in onnxruntime and in OpenVINO, beside torchvision's Mask R-CNN, in paired rounds.

    python tools/time_exported.py --config-file BlendMask/R_50_1x.yaml --size 800 1088 --json times.json

Weights are random, calibrated to 60 to 80 detections an image of noise, and the same for all runs of the model. For the
figures of the documentation nothing else may run on the machine.
"""

import argparse
import json
import os
import sys
import tempfile

import numpy as np
import torch
from tqdm import tqdm

from adet_ext.benchmark.analysis import random_input
from adet_ext.benchmark.calibrate import calibrate
from adet_ext.benchmark.paired import Partner, ratios, run_rounds, spread
from adet_ext.cli import run_program
from adet_ext.config import load_config
from adet_ext.d2 import ENGINE
from adet_ext.d2.modeling import build_model
from adet_ext.export.files import Options, export_model
from adet_ext.utils.machine import processor_name
from adet_ext.utils.table import text_table

RUNS = ("eager", "compiled", "pt2", "onnxruntime", "onnxruntime int8", "openvino", "torchvision Mask R-CNN")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", required=True)
    parser.add_argument("--size", type=int, nargs=2, default=(800, 1088), help="of the images (800 1088)")
    parser.add_argument("--runs", nargs="+", choices=RUNS, default=list(RUNS))
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--warmup", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--detections", type=int, nargs=2, default=(60, 80), metavar=("LOW", "HIGH"))
    parser.add_argument("--json", help="write the numbers here as well")
    parser.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE")
    return parser.parse_args()


def prepare(arguments: argparse.Namespace, folder: str) -> dict[str, str]:
    """Write the calibrated weights and the files of the model; return what each run opens."""
    torch.manual_seed(0)
    torch.set_num_threads(arguments.threads)
    cfg = load_config(arguments.config_file, [*arguments.opts, "MODEL.DEVICE", "cpu"])
    model = build_model(cfg).eval()
    inputs = random_input(*arguments.size)
    calibrate(model, inputs, *arguments.detections)
    torch.save({"model": model.state_dict()}, os.path.join(folder, "weights.pth"))
    step = model.backbone.size_divisibility
    frame = tuple(-(-length // step) * step for length in arguments.size)
    picture = [np.ascontiguousarray(inputs[0]["image"].permute(1, 2, 0).numpy())]
    runs = {"eager": arguments.config_file, "compiled": f"compiled:{arguments.config_file}"}
    runs["torchvision Mask R-CNN"] = "torchvision:mask_rcnn_R_50_FPN"
    for name, kind, precision in (
        ("pt2", "pt2", "float32"), ("onnxruntime", "onnx", "float32"), ("onnxruntime int8", "onnx", "int8")
    ):  # fmt: skip
        if name in arguments.runs or (name == "onnxruntime" and "openvino" in arguments.runs):
            runs[name] = os.path.join(folder, f"{precision}.{kind}")
            options = Options(kind, frame, precision=precision)
            export_model(cfg, model, runs[name], options, pictures=picture if precision == "int8" else ())
    if "onnxruntime" in runs:
        runs["openvino"] = f"openvino:{runs['onnxruntime']}"
    return {name: runs[name] for name in arguments.runs}


def main() -> int:
    arguments = parse()
    with tempfile.TemporaryDirectory() as folder:
        runs = prepare(arguments, folder)
        weights = [*arguments.opts, "MODEL.WEIGHTS", os.path.join(folder, "weights.pth")]
        partners = [Partner(name, config, ENGINE, weights) for name, config in runs.items()]
        sizes = [os.path.getsize(config) / 2**20 if os.path.isfile(config) else None for config in runs.values()]
        try:
            for partner in partners:
                partner.start()
                partner.facts = partner.ask(
                    "build", config=partner.config, opts=partner.opts, height=arguments.size[0],
                    width=arguments.size[1], batch=1, images=[], threads=arguments.threads, device="cpu", seed=0,
                )  # fmt: skip
                if not partner.facts["trained"]:
                    partner.ask("calibrate", low=arguments.detections[0], high=arguments.detections[1])
            with tqdm(total=arguments.rounds + arguments.warmup, desc="rounds") as bar:
                run_rounds(partners, arguments.rounds, arguments.warmup, bar.update)
        finally:
            for partner in partners:
                partner.stop()
    report(arguments, partners, sizes)
    return 0


def report(arguments: argparse.Namespace, partners: list[Partner], sizes: list[float | None]) -> None:
    """Print the table, and write the numbers where asked."""
    times = {partner.label: [result["total"] for result in partner.rounds] for partner in partners}
    rows, table = [], [["run", "ms", "quartiles", "found", *(f"over {name}" for name in _bases(times)), "MiB"]]
    for partner, size in zip(partners, sizes):
        mine = times[partner.label]
        over = {base: ratios(mine, times[base]) for base in _bases(times)}
        ms, found = spread(mine), partner.rounds[-1]["detections"]
        rows.append({"run": partner.label, "ms": vars(ms), "found": found, "MiB": size,
                     "over": {base: vars(value) for base, value in over.items()}})  # fmt: skip
        table.append([
            partner.label, f"{ms.median:.0f}", f"{ms.lower:.0f}-{ms.upper:.0f}", f"{found:g}",
            *(f"{value.median:.3f}" for value in over.values()), "" if size is None else f"{size:.0f}",
        ])  # fmt: skip
    print(text_table(table))
    machine = f"{processor_name()}, {arguments.threads} threads, torch {torch.__version__}, {arguments.rounds} rounds"
    print(f"{arguments.config_file}, {arguments.size[0]} x {arguments.size[1]}; {machine}")
    if arguments.json:
        with open(arguments.json, "w", encoding="utf-8") as file:
            json.dump({"config": arguments.config_file, "size": arguments.size, "machine": machine, "runs": rows}, file)


def _bases(times: dict) -> list[str]:
    return [name for name in ("eager", "torchvision Mask R-CNN") if name in times]


if __name__ == "__main__":
    sys.exit(run_program("time_exported", main))

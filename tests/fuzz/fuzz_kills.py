"""Kill a small training at random moments, resume it until it is done, and compare it with the run never killed.

``python -m tests.fuzz.fuzz_kills --kills 40 --seed 0`` from the root of the checkout; needs ``os.fork``.
"""

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

import torch

from adet_ext import cli
from adet_ext.cli import train  # noqa: F401  (once, not in every process)
from adet_ext.data.shapes import register_shapes

# Clocks differ from run to run.
TIMES = {"time", "data_time", "rank_data_time", "eta_seconds"}
OPTIONS = [
    *("DATASETS.TRAIN", "('kill_train',)", "DATASETS.TEST", "('kill_val',)", "INPUT.MIN_SIZE_TRAIN", "(64,)"),
    *("INPUT.MIN_SIZE_TEST", "64", "MODEL.FPN.OUT_CHANNELS", "64", "MODEL.BLENDMASK.ATTN_SIZE", "7"),
    *("MODEL.BLENDMASK.BOTTOM_RESOLUTION", "28", "SOLVER.IMS_PER_BATCH", "2", "SOLVER.WARMUP_ITERS", "5"),
    *("TEST.EVAL_PERIOD", "10", "MODEL.FCOS.INFERENCE_TH_TEST", "0.02", "SEED", "3"),
]


def start(output: Path, iterations: int, period: int, workers: int) -> int:
    """Begin or go on with a training in a process of its own; return its number."""
    process = os.fork()
    if process:
        return process
    status = 1
    try:
        output.mkdir(exist_ok=True)
        with open(output / "terminal.txt", "a") as terminal:
            os.dup2(terminal.fileno(), 1), os.dup2(terminal.fileno(), 2)
        words = ["--config-file", "demo/shapes_R_18.yaml", "--resume", *OPTIONS, "OUTPUT_DIR", str(output)]
        words += ["SOLVER.MAX_ITER", str(iterations), "SOLVER.CHECKPOINT_PERIOD", str(period)]
        status = cli.run("train", [*words, "DATALOADER.NUM_WORKERS", str(workers)])
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        os._exit(status)


def wait(process: int, seconds: float) -> int | None:
    """The exit status of a process; None after so many seconds without one."""
    end = time.monotonic() + seconds
    while True:
        done, status = os.waitpid(process, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() >= end:
            return None
        time.sleep(0.002)


def metrics(output: Path) -> str:
    """``metrics.json`` without the clocks."""
    rows = [json.loads(line) for line in (output / "metrics.json").read_text().splitlines()]
    return "".join(json.dumps({k: v for k, v in row.items() if k not in TIMES}) + "\n" for row in rows)


def differences(output: Path, whole: Path) -> list[str]:
    """What a killed run's folder has otherwise than that of the run never killed."""
    found = []
    if metrics(output) != metrics(whole):
        found.append("metrics.json")
    ours, theirs = (torch.load(folder / "model_final.pth", weights_only=True)["model"] for folder in (output, whole))
    if ours.keys() != theirs.keys() or not all(torch.equal(ours[key], theirs[key]) for key in ours):
        found.append("weights")
    names = [{x.name for x in f.iterdir() if not x.name.startswith("events")} for f in (output, whole)]
    return found + sorted(f"file {name}" for name in names[0] ^ names[1])


def run(n: int, seed: int, iterations: int = 45, period: int = 6) -> dict[str, int]:
    """Kill ``n`` times; return how many kills, runs, equal runs, and what differed in the others."""
    torch.set_num_threads(1)  # processes that are forked from one with threads hang
    register_shapes("kill_train", num_images=40, size=64, seed=1)
    register_shapes("kill_val", num_images=3, size=64, seed=2)
    rng, counts = random.Random(seed), {"kills": 0, "runs": 0, "equal": 0}
    with tempfile.TemporaryDirectory() as folder:
        whole, killed = Path(folder, "whole"), Path(folder, "killed")
        begin = time.monotonic()
        status = wait(start(whole, iterations, period, 0), 600)
        assert status == 0, (whole / "terminal.txt").read_text()[-3000:]
        length = time.monotonic() - begin
        while counts["kills"] < n:
            counts["runs"] += 1
            while True:
                process = start(killed, iterations, period, workers=counts["runs"] % 2)
                patience = rng.uniform(0, length) if counts["kills"] < n else 600
                status = wait(process, patience)
                if status is not None:
                    break
                os.kill(process, signal.SIGKILL)
                os.waitpid(process, 0)
                counts["kills"] += 1
            wrong = differences(killed, whole) if status == 0 else [f"status {status}"]
            for what in wrong:
                counts[what] = counts.get(what, 0) + 1
                print((killed / "terminal.txt").read_text()[-1500:] if status else what, file=sys.stderr)
            counts["equal"] += not wrong
            shutil.rmtree(killed)
            if status:
                break
    return counts


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--iterations", type=int, default=45)
    arguments = parser.parse_args()
    found = run(arguments.kills, arguments.seed, arguments.iterations)
    print(json.dumps(found))
    sys.exit(found["equal"] < found["runs"])

"""Short training runs for tests: a very small BlendMask on the built-in shapes."""

import json
import os
import subprocess
import sys
from pathlib import Path

from adet_ext import load_config

OVERRIDES = [
    *("MODEL.FPN.OUT_CHANNELS", "64", "MODEL.BLENDMASK.ATTN_SIZE", "7"),
    *("MODEL.BLENDMASK.BOTTOM_RESOLUTION", "28", "SOLVER.IMS_PER_BATCH", "4", "SOLVER.CHECKPOINT_PERIOD", "3"),
    *("SOLVER.MAX_ITER", "6", "DATASETS.TRAIN", "('shapes_train',)", "DATASETS.TEST", "()", "SEED", "3"),
]
CONFIG = "demo/shapes_R_18.yaml"


def config(output: Path, *overrides):
    """The config of a run, in this process."""
    return load_config(CONFIG, [*OVERRIDES, "OUTPUT_DIR", str(output), *map(str, overrides)])


def command(output: Path, *overrides, arguments: tuple[str, ...] = ()) -> list[str]:
    """The command line of a run, for a process of its own."""
    words = [*OVERRIDES, "OUTPUT_DIR", str(output), *map(str, overrides)]
    return [sys.executable, "-m", "adet_ext", "train", "--config-file", CONFIG, *arguments, *words]


def start(output: Path, *overrides, arguments: tuple[str, ...] = (), **environment) -> subprocess.CompletedProcess:
    """Run it and wait."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run(
        command(output, *overrides, arguments=arguments), env=env, capture_output=True, text=True, timeout=300
    )


def losses(output: Path) -> dict[int, float]:
    """The total loss by iteration, from metrics.json; of a repeated iteration the last."""
    found = {}
    for line in (output / "metrics.json").read_text().splitlines():
        entry = json.loads(line)
        if "total_loss" in entry:
            found[entry["iteration"]] = entry["total_loss"]
    return found

"""train_net.py trains and evaluates, as users start it."""

import json
import os
import subprocess
import sys
from pathlib import Path

from nas_fcos.table import CONFIGS

import adet_ext
from adet_ext.cli import run

PROJECT = CONFIGS.parent
SMALL = [
    *("MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "", "MODEL.BACKBONE.FREEZE_AT", "0", "MODEL.RESNETS.NORM", "BN"),
    *("MODEL.RESNETS.DEPTH", "18", "MODEL.RESNETS.RES2_OUT_CHANNELS", "64", "MODEL.FCOS.NUM_CLASSES", "6"),
    *("MODEL.FPN.OUT_CHANNELS", "64", "MODEL.NAS_FCOS.WIDTH", "64", "DATALOADER.NUM_WORKERS", "0", "SEED", "1"),
    *("INPUT.MIN_SIZE_TRAIN", "(96,)", "INPUT.MIN_SIZE_TEST", "96", "SOLVER.IMS_PER_BATCH", "2"),
    *("SOLVER.MAX_ITER", "3", "SOLVER.STEPS", "(2,)", "SOLVER.CHECKPOINT_PERIOD", "2"),
    *("DATASETS.TRAIN", "('shapes_train',)", "DATASETS.TEST", "()"),
]


def start(command, config, output, *overrides):
    command = [sys.executable, *command, "--config-file", str(CONFIGS / f"{config}.yaml")]
    command += [*SMALL, "OUTPUT_DIR", str(output), *overrides]
    folders = [str(Path(adet_ext.__file__).resolve().parents[1]), str(PROJECT), os.environ.get("PYTHONPATH", "")]
    path = os.pathsep.join(folders)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)


def test_a_config_trains_in_two_processes_and_is_evaluated(tmp_path, shapes_folder):
    """Distributed training fails where a parameter, as of the adapter that no block takes, has no gradient."""
    config = "NAS_FCOS_256_R_50_1x"
    done = start(["-m", "nas_fcos", "train", "--num-gpus", "2"], config, tmp_path)
    assert done.returncode == 0, done.stderr
    assert last_entry(tmp_path)["iteration"] == 2
    data = ["--dataset", "some_shapes", str(shapes_folder), str(shapes_folder / "val.json")]
    weights = ["MODEL.WEIGHTS", str(tmp_path / "model_final.pth"), "DATASETS.TRAIN", "()", "DATASETS.TEST"]
    command = [str(PROJECT / "train_net.py"), "--eval-only", *data]
    tested = start(command, config, tmp_path, *weights, "('some_shapes',)")
    assert tested.returncode == 0, tested.stderr
    results = json.loads((tmp_path / "inference" / "coco_instances_results.json").read_text())
    assert isinstance(results, list)
    assert "AP50" in tested.stdout + tested.stderr


def test_the_counterpart_trains_with_the_same_trainer(tmp_path):
    words = ["--config-file", str(CONFIGS / "RetinaNet_R_50_1x.yaml"), *SMALL, "OUTPUT_DIR", str(tmp_path)]
    assert run("train", words) == 0
    entry = last_entry(tmp_path)
    assert entry["iteration"] == 2 and entry["loss_cls"] > 0 and entry["loss_box_reg"] > 0


def last_entry(output):
    return json.loads((output / "metrics.json").read_text().splitlines()[-1])


def test_a_genotype_that_does_not_fit_is_one_sentence_and_status_2(tmp_path, capsys):
    words = ["--config-file", str(CONFIGS / "NAS_FCOS_256_R_50_1x.yaml"), *SMALL, "OUTPUT_DIR", str(tmp_path)]
    assert run("train", [*words, "MODEL.NAS_FCOS.FPN", "nobody"]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert "a genotype must be a JSON file or one of" in said and "got 'nobody'" in said

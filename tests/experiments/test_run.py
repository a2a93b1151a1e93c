import json
import os
import sys

import pytest

from adet_ext import cli
from adet_ext.data.shapes import register_shapes
from adet_ext.experiments.run import clear_run


@pytest.fixture(scope="module")
def demo():
    """The verb, on data sets and a model small enough for a test."""
    register_shapes("quick_train", num_images=4, size=64, seed=5)
    register_shapes("quick_val", num_images=3, size=64, seed=6)
    small = [
        "DATASETS.TRAIN", "('quick_train',)", "DATASETS.TEST", "('quick_val',)", "SOLVER.IMS_PER_BATCH", "2",
        "INPUT.MIN_SIZE_TRAIN", "(64,)", "INPUT.MIN_SIZE_TEST", "64", "MODEL.FPN.OUT_CHANNELS", "64",
        "SOLVER.CHECKPOINT_PERIOD", "2",
    ]  # fmt: skip

    def run(*arguments):
        return cli.run("quick", [*map(str, arguments), *small])

    return run


def test_the_demo_leaves_a_report_and_goes_on_where_it_was_stopped(demo, tmp_path, capfd, monkeypatch):
    output = tmp_path / "out"
    from adet_ext.engine.trainer import Trainer

    step = Trainer.run_step

    def stop_at_three(self):
        if self.iter == 3:
            raise KeyboardInterrupt
        step(self)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "run_step", stop_at_three)
        assert demo("--output", output, "--max-iter", 4) == 130
    assert "same command" in capfd.readouterr().err and not (output / "report.html").exists()

    assert demo("--output", output, "--max-iter", 4) == 0
    printed = capfd.readouterr()
    assert "going on after iteration 2" in printed.err
    last = printed.out.strip().splitlines()[-1]
    assert str(output / "report.html") in last and "mask AP" in last
    assert len(printed.out.splitlines()) < 10 and "Traceback" not in printed.err
    for name in ("metrics.json", "model_final.pth", "report.html", "pictures/overview.png", "log.txt"):
        assert (output / name).is_file()
    assert "<img" in (output / "report.html").read_text(encoding="utf-8")
    rows = [json.loads(line) for line in (output / "metrics.json").read_text().splitlines()]
    assert [row["iteration"] for row in rows if "total_loss" in row][-1] == 3
    assert sys.stdout.isatty() is False  # what was redirected is back

    assert demo("--output", output, "--max-iter", 5) == 2  # other settings
    error = capfd.readouterr().err
    assert "SOLVER.MAX_ITER" in error and "--fresh" in error


def test_clearing_removes_a_runs_files_and_nothing_else(tmp_path):
    own, mine = ("thesis.txt", "my.pth"), ("model_0000001.pth", "metrics.json", "events.out.tfevents.1")
    for name in own + mine:
        (tmp_path / name).write_text("x")
    (tmp_path / "pictures").mkdir()
    clear_run(str(tmp_path))
    assert sorted(os.listdir(tmp_path)) == sorted(own)
    clear_run(str(tmp_path / "absent"))

"""SIGTERM and Ctrl-C: a sentence, a checkpoint of the iteration, no half-written files, and the same run afterwards."""

import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from adet_ext.d2.engine import HookBase
from adet_ext.engine.trainer import Trainer, setup
from adet_ext.utils.files import remove_remains
from adet_ext.utils.stopping import StopRequest, Terminated, terminate_at_once

from .. import runs


class SignalAt(HookBase):
    def __init__(self, iteration: int, number: int):
        self.iteration, self.number = iteration, number

    def before_step(self):
        if self.trainer.iter == self.iteration:
            os.kill(os.getpid(), self.number)


@pytest.mark.parametrize("number, expected", [(signal.SIGTERM, Terminated), (signal.SIGINT, KeyboardInterrupt)])
def test_a_signal_stops_after_the_iteration_with_a_checkpoint(tmp_path, capsys, number, expected):
    before = [signal.getsignal(x) for x in (signal.SIGTERM, signal.SIGINT)]
    cfg = runs.config(tmp_path, "SOLVER.CHECKPOINT_PERIOD", 100)
    trainer = Trainer(cfg)
    trainer._stop_request.patience = 300
    trainer.register_hooks([SignalAt(1, number)])
    with pytest.raises(expected) as stop:
        trainer.train()
    assert "stopping after this iteration" in capsys.readouterr().err
    sentence = getattr(stop.value, "message", str(stop.value))
    assert sentence == "stopped after iteration 1, which model_0000001.pth holds; go on with --resume"
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000001.pth"
    assert not [x for x in os.listdir(tmp_path) if ".part" in x or ".tmp" in x]
    assert [signal.getsignal(x) for x in (signal.SIGTERM, signal.SIGINT)] == before
    again = Trainer(cfg)
    again.resume_or_load(resume=True)
    assert again.start_iter == 2


def test_work_that_does_not_end_is_stopped_where_it_is():
    said = []
    with pytest.raises(Terminated, match="143"), StopRequest(patience=0.2, say=said.append) as request:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)  # from the group and from the parent: the same request
        assert request.requested == signal.SIGTERM
        time.sleep(10)
    assert len(said) == 1 and said[0].startswith("SIGTERM: stopping after this iteration")


def test_a_command_outside_training_stops_at_once():
    with pytest.raises(Terminated), terminate_at_once():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(10)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs process groups")
@pytest.mark.skipif(torch.cuda.is_available(), reason="on a GPU machine each process needs a GPU")
@pytest.mark.parametrize("processes", [1, 2])
def test_a_scheduler_that_signals_all_processes_gets_143_and_a_checkpoint(tmp_path, processes):
    words = runs.command(
        tmp_path, "DATALOADER.NUM_WORKERS", "1", "SOLVER.MAX_ITER", "1000", "SOLVER.CHECKPOINT_PERIOD", "1000",
        arguments=("--num-gpus", str(processes)),
    )  # fmt: skip
    with open(tmp_path / "out.txt", "wb") as out:
        process = subprocess.Popen(words, stdout=out, stderr=subprocess.STDOUT, start_new_session=True)
        deadline = time.time() + 200
        while b"Starting training" not in (tmp_path / "out.txt").read_bytes() and time.time() < deadline:
            time.sleep(0.05)
        time.sleep(1.5)
        os.killpg(process.pid, signal.SIGTERM)
        assert process.wait(60) == 143
    text = (tmp_path / "out.txt").read_text()
    assert "Traceback" not in text and "adet_ext train: stopped" in text
    assert not [x for x in os.listdir(tmp_path) if ".part" in x or ".tmp" in x]
    # A loaded machine may need longer than the patience for an iteration; then there is no checkpoint, and it says so.
    saved = any(x.endswith(".pth") for x in os.listdir(tmp_path))
    assert saved or "stopped within an iteration" in text


def test_what_a_killed_run_left_half_written_goes_at_the_next_start(tmp_path):
    class Args:
        resume, eval_only, config_file = False, False, ""

    dead = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    mine = [f".model_0000001.{dead.stdout.strip()}.part.tmp", "model_0000003.pth.tmp", f".x.{os.getpid()}.part.json"]
    others = [f".y.{os.getppid()}.part.png", "notes.tmp", "model.pth"]
    for name in mine + others:
        (tmp_path / name).write_text("half")
    setup(runs.config(tmp_path), Args())
    left = set(os.listdir(tmp_path))
    assert set(others) <= left and not left & set(mine)
    remove_remains(str(tmp_path))

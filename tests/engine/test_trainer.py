"""Training: resuming, what stops a run and what it leaves behind, several processes."""

import json
import signal
import socket
import subprocess
import sys
import time

import pytest
import torch

from adet_ext.d2.engine import HookBase
from adet_ext.d2.utils import EventWriter, get_event_storage
from adet_ext.engine.checkpoint import AdetCheckpointer
from adet_ext.engine.trainer import Trainer, setup
from adet_ext.errors import UserError

from .. import runs


class Record(EventWriter):
    """Keeps every iteration's losses, not every twentieth's."""

    def __init__(self, into: dict):
        self.into = into

    def write(self):
        storage = get_event_storage()
        self.into[storage.iter] = {k: v for k, (v, _) in storage.latest().items() if "loss" in k}


class RecordEachStep(HookBase):
    def __init__(self, into: dict):
        self.writer = Record(into)

    def after_step(self):
        self.writer.write()


class StopAt(HookBase):
    """Ends the process' run as a signal would, after the checkpoint of that iteration."""

    def __init__(self, iteration: int):
        self.iteration = iteration

    def after_step(self):
        if self.trainer.iter == self.iteration:
            raise KeyboardInterrupt


def make_trainer(cfg, into: dict, *hooks) -> Trainer:
    cfg.freeze()
    torch.manual_seed(cfg.SEED)
    trainer = Trainer(cfg)
    trainer.register_hooks([RecordEachStep(into), *hooks])
    return trainer


@pytest.mark.parametrize("optimizer", ["SGD", "ADAMW"])
def test_a_resumed_run_has_the_losses_of_an_uninterrupted_one_number_for_number(tmp_path, optimizer):
    whole, broken = {}, {}
    options = ("SOLVER.OPTIMIZER", optimizer, "MODEL.FCOS.LOSS_NORMALIZER_CLS", "moving_fg")
    make_trainer(runs.config(tmp_path / "whole", *options), whole).train()

    first = make_trainer(runs.config(tmp_path / "broken", *options), broken, StopAt(4))
    with pytest.raises(KeyboardInterrupt):
        first.train()
    assert sorted(broken) == [0, 1, 2, 3, 4]
    second = make_trainer(runs.config(tmp_path / "broken", *options), broken)
    second.resume_or_load(resume=True)
    assert second.start_iter == 3
    second.train()
    assert whole == broken


def test_a_killed_process_resumes_from_its_last_checkpoint_and_ends_as_if_never_killed(tmp_path):
    whole = runs.start(tmp_path / "whole")
    assert whole.returncode == 0, whole.stderr[-2000:]

    process = subprocess.Popen(
        runs.command(tmp_path / "killed", "SOLVER.CHECKPOINT_PERIOD", "1"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.time() + 120
    while not (tmp_path / "killed/model_0000002.pth").exists() and time.time() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    resumed = runs.start(tmp_path / "killed", "SOLVER.CHECKPOINT_PERIOD", "1", arguments=("--resume",))
    assert resumed.returncode == 0, resumed.stderr[-2000:]
    a, b = (torch.load(tmp_path / x / "model_final.pth", weights_only=True)["model"] for x in ("whole", "killed"))
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_a_loss_that_is_not_finite_stops_the_run_names_the_images_and_keeps_the_checkpoints(tmp_path):
    cfg = runs.config(tmp_path)

    class Poison(HookBase):
        def before_step(self):
            if self.trainer.iter == 4:
                self.trainer.model.top_layer.bias.data.fill_(float("nan"))

    trainer = make_trainer(cfg, {}, Poison())
    with pytest.raises(FloatingPointError, match="iteration 4: shapes://.*png.*--resume"):
        trainer.train()
    name = (tmp_path / "last_checkpoint").read_text()
    assert name == "model_0000002.pth"
    state = torch.load(tmp_path / name, weights_only=True)["model"]
    assert all(torch.isfinite(v).all() for v in state.values())


def test_a_checkpoint_that_cannot_be_written_leaves_the_earlier_one(tmp_path, monkeypatch):
    model = torch.nn.Linear(2, 2)
    checkpointer = AdetCheckpointer(model, str(tmp_path), save_to_disk=True)
    checkpointer.save("model_0")
    before = (tmp_path / "model_0.pth").read_bytes()

    def full_disk(data, file):
        file.write(b"half of")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full_disk)
    for name in ("model_0", "model_1"):
        with pytest.raises(UserError, match="disk at .* is full"):
            checkpointer.save(name)
    assert (tmp_path / "model_0.pth").read_bytes() == before
    assert (tmp_path / "last_checkpoint").read_text() == "model_0.pth"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["last_checkpoint", "model_0.pth"]


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path):
    import os
    import pickle

    class Evil:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'trace'}",)

    torch.save({"model": {"weight": Evil()}}, tmp_path / "evil.pth")
    (tmp_path / "evil.pkl").write_bytes(pickle.dumps({"model": Evil(), "__author__": "x"}))
    for name in ("evil.pth", "evil.pkl"):
        with pytest.raises(UserError, match=f"{name}.*refused"):
            AdetCheckpointer(torch.nn.Linear(2, 2)).load(str(tmp_path / name))
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 cut off"])
def test_a_file_that_is_no_checkpoint_is_named(tmp_path, content):
    (tmp_path / "bad.pth").write_bytes(content)
    with pytest.raises(UserError, match="bad.pth"):
        AdetCheckpointer(torch.nn.Linear(2, 2)).load(str(tmp_path / "bad.pth"))
    with pytest.raises(UserError, match="gone.pth"):
        AdetCheckpointer(torch.nn.Linear(2, 2)).load(str(tmp_path / "gone.pth"))


def test_missing_superfluous_and_misshapen_tensors_are_listed(tmp_path, caplog):
    torch.save({"model": {"0.weight": torch.zeros(3, 3), "2.extra": torch.zeros(1)}}, tmp_path / "other.pth")
    with caplog.at_level("WARNING"):
        AdetCheckpointer(torch.nn.Sequential(torch.nn.Linear(2, 2))).load(str(tmp_path / "other.pth"))
    for word in ("0.weight", "(3, 3)", "(2, 2)", "2.extra", "0.bias"):
        assert word in caplog.text or word.partition(".")[2] in caplog.text, word


def test_the_seed_of_a_run_without_one_is_on_record_and_comes_back(tmp_path):
    class Args:
        resume, eval_only, config_file = False, False, ""

    seed = setup(runs.config(tmp_path, "SEED", -1), Args()).SEED
    assert seed >= 0
    Args.resume = True
    assert setup(runs.config(tmp_path, "SEED", -1), Args()).SEED == seed


def test_a_model_with_another_number_of_classes_than_the_data_is_refused(tmp_path):
    class Args:
        resume, eval_only, config_file = False, False, ""

    with pytest.raises(UserError, match="has 6 classes, but MODEL.FCOS.NUM_CLASSES is 80"):
        setup(runs.config(tmp_path, "MODEL.FCOS.NUM_CLASSES", 80), Args())


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_said_with_the_key_to_set(tmp_path):
    class Args:
        resume, eval_only, config_file = False, False, ""

    with pytest.raises(UserError, match="MODEL.DEVICE is cuda, but .*; add MODEL.DEVICE cpu"):
        setup(runs.config(tmp_path, "MODEL.DEVICE", "cuda"), Args())


def test_an_unknown_optimizer_is_named(tmp_path):
    with pytest.raises(UserError, match="SOLVER.OPTIMIZER must be SGD or ADAMW; got LION"):
        Trainer(runs.config(tmp_path, "SOLVER.OPTIMIZER", "LION"))


def test_two_processes_have_the_losses_of_one_with_the_same_global_batch(tmp_path):
    options = ("SOLVER.MAX_ITER", 20, "MODEL.RESNETS.NORM", "SyncBN", "MODEL.FCOS.NORM", "SyncBN")
    one = runs.start(tmp_path / "one", *options)
    assert one.returncode == 0, one.stderr[-2000:]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = runs.command(tmp_path / "two", *options)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(port)]
    two = subprocess.run([*torchrun, *words[1:]], capture_output=True, text=True, timeout=300)
    assert two.returncode == 0, two.stderr[-2000:]
    a, b = runs.losses(tmp_path / "one"), runs.losses(tmp_path / "two")
    assert a.keys() == b.keys() and a
    for iteration in a:
        assert b[iteration] == pytest.approx(a[iteration], rel=1e-4), iteration


@pytest.mark.needs_detectron2
def test_both_engines_train_and_evaluate_to_the_same_numbers(tmp_path):
    options = ("SOLVER.MAX_ITER", 20, "DATASETS.TEST", "('shapes_val',)", "SOLVER.WARMUP_ITERS", "5")
    options += ("MODEL.FCOS.INFERENCE_TH_TEST", "0.001")
    results = {}
    for engine in ("embedded", "detectron2"):
        done = runs.start(tmp_path / engine, *options, ADET_EXT_ENGINE=engine)
        assert done.returncode == 0, done.stderr[-2000:]
        entries = map(json.loads, (tmp_path / engine / "metrics.json").read_text().splitlines())
        values = {k: v for entry in entries for k, v in entry.items()}
        results[engine] = {k: v for k, v in values.items() if "loss" in k or k.startswith(("bbox", "segm"))}
    ours, theirs = results["embedded"], results["detectron2"]
    assert ours.keys() == theirs.keys() and "total_loss" in ours and any(k.startswith("segm/AP") for k in ours)
    for key in theirs:
        assert ours[key] == pytest.approx(theirs[key], rel=1e-5, abs=1e-8, nan_ok=True), key

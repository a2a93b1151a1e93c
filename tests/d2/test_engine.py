"""Trainers and set-up: the numbers and files of Detectron2, exact resuming, losses that are not finite."""

import copy
import json
import os
from argparse import Namespace

import numpy as np
import pytest
import torch
import yaml
from torch import nn

from adet_ext.d2 import ENGINE
from adet_ext.d2.config import get_cfg
from adet_ext.d2.engine import (
    AMPTrainer,
    DefaultTrainer,
    SimpleTrainer,
    create_ddp_model,
    default_argument_parser,
    default_setup,
    default_writers,
)
from adet_ext.d2.evaluation import DatasetEvaluator
from adet_ext.d2.modeling import META_ARCH_REGISTRY

embedded_only = pytest.mark.skipif(ENGINE != "embedded", reason="a message of the embedded engine")


class TinyTestModel(nn.Module):
    """Two losses of a small convolutional net on ``image``; in evaluation the mean of the image."""

    def __init__(self, cfg=None):
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1))

    def forward(self, inputs):
        if not self.training:
            return [{"mean": x["image"].mean(), "size": (x["height"], x["width"])} for x in inputs]
        out = self.net(torch.stack([x["image"] for x in inputs]))
        return {"loss_a": out[:, 0].square().mean(), "loss_b": (out[:, 1] - 1).abs().mean()}


if "TinyTestModel" not in META_ARCH_REGISTRY:
    META_ARCH_REGISTRY.register(TinyTestModel)


class Batches:
    """An endless stream of batches, a function of its start alone."""

    def __init__(self, start=0, poison=None):
        self.start, self.poison = start, poison

    def __iter__(self):
        i = self.start
        while True:
            images = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(i))
            if i == self.poison:
                images[1] = float("nan")
            yield [{"image": image, "file_name": f"image{i}_{k}.jpg"} for k, image in enumerate(images)]
            i += 1


class Evaluator(DatasetEvaluator):
    def reset(self):
        self.count = 0

    def process(self, inputs, outputs):
        self.count += len(inputs)

    def evaluate(self):
        return {"bbox": {"AP": float(self.count)}}


class TinyTrainer(DefaultTrainer):
    batches = Batches()

    @classmethod
    def build_train_loader(cls, cfg):
        return cls.batches

    @classmethod
    def build_test_loader(cls, cfg, dataset_name):
        return [[{"image": torch.zeros(3, 8, 8), "height": 8, "width": 8}]] * 6

    @classmethod
    def build_evaluator(cls, cfg, dataset_name):
        return Evaluator()


def _cfg(folder, iterations=10):
    cfg = get_cfg()
    cfg.OUTPUT_DIR = str(folder)
    cfg.MODEL.META_ARCHITECTURE = "TinyTestModel"
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.WEIGHTS = ""
    cfg.DATASETS.TEST = ("tiny_test",)
    cfg.TEST.EVAL_PERIOD = 5
    cfg.SEED = 3
    cfg.SOLVER.update(
        {
            "MAX_ITER": iterations,
            "STEPS": (6,),
            "WARMUP_ITERS": 3,
            "BASE_LR": 0.05,
            "CHECKPOINT_PERIOD": 4,
            "WEIGHT_DECAY_NORM": 0.0,
        }
    )
    return cfg


def _train(cfg, start=0, resume=False, trainer_class=TinyTrainer, **batches):
    trainer_class.batches = Batches(start, **batches)
    torch.manual_seed(cfg.SEED)
    trainer = trainer_class(cfg)
    trainer.resume_or_load(resume=resume)
    return trainer


def _losses(trainer):
    return {name: trainer.storage.history(name).values() for name in ("total_loss", "loss_a", "loss_b", "lr")}


def test_a_run_leaves_the_files_that_detectron2_leaves(tmp_path):
    cfg = _cfg(tmp_path)
    default_setup(cfg, Namespace(config_file="", eval_only=False))
    trainer = _train(cfg)
    trainer.train()
    names = set(os.listdir(tmp_path))
    assert {"config.yaml", "log.txt", "metrics.json", "last_checkpoint", "model_final.pth"} <= names
    assert {"model_0000003.pth", "model_0000007.pth"} <= names
    assert any(name.startswith("events.out.tfevents") for name in names)
    assert (tmp_path / "last_checkpoint").read_text() == "model_final.pth"
    lines = [json.loads(line) for line in (tmp_path / "metrics.json").read_text().splitlines()]
    by_iteration = {line["iteration"]: line for line in lines}
    assert by_iteration.keys() == {4, 9, 10}
    assert by_iteration[4] == {"bbox/AP": 6.0, "iteration": 4}
    assert by_iteration[9].keys() >= {"lr", "total_loss", "loss_a", "data_time", "time", "eta_seconds"}
    assert by_iteration[10] == {"bbox/AP": 6.0, "iteration": 10}
    saved = get_cfg()
    saved.merge_from_file(str(tmp_path / "config.yaml"))
    assert yaml.safe_load(saved.dump()) == yaml.safe_load(cfg.dump())
    log = (tmp_path / "log.txt").read_text()
    assert "Starting training from iteration 0" in log and "total_loss" in log


def test_a_resumed_run_has_the_losses_and_weights_of_one_never_stopped(tmp_path):
    whole = _train(_cfg(tmp_path / "whole"))
    whole.train()

    class Killed(Exception):
        pass

    first = _train(_cfg(tmp_path / "parts"))
    run_step = first.run_step

    def run_until_six():
        if first.iter == 6:
            raise Killed
        run_step()

    first.run_step = run_until_six
    with pytest.raises(Killed):
        first.train()
    second = _train(_cfg(tmp_path / "parts"), start=4, resume=True)
    assert second.start_iter == 4
    second.train()
    for name, values in _losses(whole).items():
        assert second.storage.history(name).values() == values[4:], name
    weights = second.model.state_dict()
    assert all(torch.equal(weights[name], value) for name, value in whole.model.state_dict().items())


def test_without_resume_a_run_starts_from_the_weights_alone(tmp_path):
    _train(_cfg(tmp_path, 4)).train()
    cfg = _cfg(tmp_path / "next", 4)
    cfg.MODEL.WEIGHTS = str(tmp_path / "model_final.pth")
    trainer = _train(cfg, resume=True)
    assert trainer.start_iter == 0 and not trainer.optimizer.state
    expected = torch.load(cfg.MODEL.WEIGHTS)["model"]
    assert all(torch.equal(expected[k], v) for k, v in trainer.model.state_dict().items())


@pytest.mark.needs_detectron2
@pytest.mark.parametrize("clip", [False, True])
def test_twenty_iterations_have_the_losses_of_detectron2(tmp_path, clip):
    from adet_ext.d2.embedded import solver
    from adet_ext.d2.embedded.engine import SimpleTrainer as Ours
    from adet_ext.d2.embedded.engine import hooks as our_hooks

    theirs_engine = pytest.importorskip("detectron2.engine")
    theirs_solver = pytest.importorskip("detectron2.solver")
    cfg = _cfg(tmp_path, 20)
    cfg.SOLVER.CLIP_GRADIENTS.update({"ENABLED": clip, "CLIP_TYPE": "norm", "CLIP_VALUE": 0.1})
    torch.manual_seed(0)
    start = TinyTestModel()
    histories, states = [], []
    for trainer_class, hooks, library in (
        (Ours, our_hooks, solver),
        (theirs_engine.SimpleTrainer, theirs_engine.hooks, theirs_solver),
    ):
        model = copy.deepcopy(start)
        optimizer = library.build_optimizer(cfg, model)
        trainer = trainer_class(model, Batches(), optimizer)
        trainer.register_hooks([hooks.LRScheduler(optimizer, library.build_lr_scheduler(cfg, optimizer))])
        trainer.train(0, 20)
        histories.append(_losses(trainer))
        states.append(trainer.state_dict())
    assert histories[0] == histories[1]
    # A checkpoint of one engine can be resumed by the other.
    ours, theirs = states
    assert ours.keys() == theirs.keys() and ours["hooks"] == theirs["hooks"]
    assert ours["optimizer"]["param_groups"] == theirs["optimizer"]["param_groups"]


def test_a_finished_run_that_is_resumed_only_evaluates(tmp_path):
    _train(_cfg(tmp_path)).train()
    weights = (tmp_path / "model_final.pth").read_bytes()
    again = _train(_cfg(tmp_path), start=10, resume=True)
    again.train()
    assert again.start_iter == 10 and again.storage.latest()["bbox/AP"][0] == 6.0
    assert (tmp_path / "model_final.pth").read_bytes() == weights


def test_a_loss_that_is_not_finite_stops_before_the_weights_change(tmp_path):
    trainer = _train(_cfg(tmp_path), poison=5)
    with pytest.raises(FloatingPointError, match=r"iteration=5[\s\S]*loss_a.*nan"):
        trainer.train()
    weights = trainer.model.net[0].weight
    assert weights.isfinite().all()
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000003.pth"
    assert torch.load(tmp_path / "model_0000003.pth")["model"]["net.0.weight"].isfinite().all()


def test_a_model_may_return_one_loss_instead_of_several():
    class One(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1))

        def forward(self, inputs):
            return (self.weight * inputs).sum()

    model = One()
    trainer = SimpleTrainer(model, iter([torch.ones(2)] * 3), torch.optim.SGD(model.parameters(), lr=0.1))
    trainer.train(0, 3)
    values = [value for value, _ in trainer.storage.history("total_loss").values()]
    assert values == pytest.approx([2.0, 1.6, 1.2])


def test_mixed_precision_asks_for_a_gpu(tmp_path):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    model = TinyTestModel()
    trainer = AMPTrainer(model, Batches(), torch.optim.SGD(model.parameters(), lr=0.1))
    with pytest.raises((RuntimeError, AssertionError), match="CUDA"):
        trainer.train(0, 1)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="mixed precision runs on a GPU only")
def test_mixed_precision_trains_and_its_state_returns():
    class OnGPU(TinyTestModel):
        def forward(self, inputs):
            return super().forward([{**x, "image": x["image"].cuda()} for x in inputs])

    model = OnGPU().cuda()
    trainer = AMPTrainer(model, Batches(), torch.optim.SGD(model.parameters(), lr=0.01))
    trainer.train(0, 5)
    values = [value for value, _ in trainer.storage.history("total_loss").values()]
    assert all(np.isfinite(values)) and values[-1] < values[0]
    state = trainer.state_dict()
    again = AMPTrainer(model, Batches(), torch.optim.SGD(model.parameters(), lr=0.01))
    again.load_state_dict(state)
    assert again.grad_scaler.state_dict() == trainer.grad_scaler.state_dict() and again.iter == 5


def test_the_data_loader_can_be_replaced_during_training():
    model = TinyTestModel()
    trainer = SimpleTrainer(model, Batches(0), torch.optim.SGD(model.parameters(), lr=0.1))
    trainer.train(0, 2)
    trainer.reset_data_loader(lambda: Batches(50))
    assert next(trainer._data_loader_iter)[0]["file_name"] == "image50_0.jpg"


def test_evaluation_without_an_evaluator_says_so_and_goes_on(tmp_path):
    class Bare(TinyTrainer):
        build_evaluator = DefaultTrainer.build_evaluator

    assert Bare.test(_cfg(tmp_path), TinyTestModel()) == {}


def test_evaluation_takes_evaluators_and_several_data_sets(tmp_path):
    cfg = _cfg(tmp_path)
    assert TinyTrainer.test(cfg, TinyTestModel(), Evaluator()) == {"bbox": {"AP": 6.0}}
    cfg.DATASETS.TEST = ("tiny_a", "tiny_b")
    assert list(TinyTrainer.test(cfg, TinyTestModel())) == ["tiny_a", "tiny_b"]
    with pytest.raises((ValueError, AssertionError)):
        TinyTrainer.test(cfg, TinyTestModel(), [Evaluator()])


def test_expected_results_are_checked_at_the_end(tmp_path):
    cfg = _cfg(tmp_path, 4)
    cfg.TEST.EXPECTED_RESULTS = [["bbox", "AP", 6.0, 0.1]]
    assert _train(cfg).train() == {"bbox": {"AP": 6.0}}
    cfg.TEST.EXPECTED_RESULTS = [["bbox", "AP", 50.0, 0.1]]
    with pytest.raises(SystemExit):
        _train(cfg).train()


@embedded_only
def test_what_the_embedded_engine_lacks_names_detectron2(tmp_path):
    cfg = _cfg(tmp_path)
    cfg.TEST.PRECISE_BN.ENABLED = True
    with pytest.raises(ValueError, match="PRECISE_BN.*Detectron2"):
        TinyTrainer(cfg)
    cfg = _cfg(tmp_path)
    cfg.SOLVER.REFERENCE_WORLD_SIZE = 8
    with pytest.raises(ValueError, match="REFERENCE_WORLD_SIZE.*Detectron2"):
        TinyTrainer(cfg)


def test_arguments_are_those_of_detectron2():
    parsed = default_argument_parser().parse_args(
        ["--config-file", "x.yaml", "--num-gpus", "2", "--eval-only", "MODEL.WEIGHTS", "w.pth"]
    )
    assert parsed.config_file == "x.yaml" and parsed.num_gpus == 2 and parsed.eval_only and not parsed.resume
    assert parsed.num_machines == 1 and parsed.machine_rank == 0 and parsed.dist_url.startswith("tcp://")
    assert parsed.opts == ["MODEL.WEIGHTS", "w.pth"]


def test_setup_seeds_so_that_runs_repeat(tmp_path):
    draws = []
    for _ in range(2):
        default_setup(_cfg(tmp_path), Namespace(config_file="", eval_only=True))
        draws.append((torch.rand(1).item(), float(np.random.rand())))
    assert draws[0] == draws[1]


def test_one_process_needs_no_wrapping_and_writers_are_three(tmp_path):
    model = TinyTestModel()
    assert create_ddp_model(model) is model
    assert [type(w).__name__ for w in default_writers(str(tmp_path), 10)] == [
        "CommonMetricPrinter",
        "JSONWriter",
        "TensorboardXWriter",
    ]

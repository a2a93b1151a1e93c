"""Resuming: metrics.json and weights of a run never stopped; a changed config takes effect or is refused."""

import json

import pytest
import torch

from adet_ext import get_cfg
from adet_ext.engine import trainer as trainer_module
from adet_ext.engine.checkpoint import AdetCheckpointer
from adet_ext.engine.trainer import Trainer
from adet_ext.errors import UserError

from ..d2.test_engine import Batches, Evaluator, TinyTestModel  # noqa: F401  (registered by its name)
from ..fuzz.fuzz_kills import differences, metrics


class Killed(BaseException):
    pass


class TinyTrainer(Trainer):
    """The trainer on a model of two small convolutions; dies at a place of an iteration."""

    place, iteration = "", -1

    def die(self, place):
        if (place, self.iter) == (self.place, self.iteration):
            raise Killed

    def run_step(self):
        self.die("step")
        super().run_step()

    @classmethod
    def build_test_loader(cls, cfg, dataset_name):
        return [[{"image": torch.zeros(3, 8, 8), "height": 8, "width": 8}]] * 6

    @classmethod
    def build_evaluator(cls, cfg, dataset_name, output_folder=None):
        return Evaluator()

    def build_hooks(self):
        built = super().build_hooks()
        for hook in filter(None, built):  # dies after, or halfway through, what a hook does
            after_step, name = hook.after_step, type(hook).__name__

            def dying(after_step=after_step, name=name):
                self.die(f"before {name}")
                after_step()
                self.die(f"after {name}")

            hook.after_step = dying
        return built


@pytest.fixture(autouse=True)
def batches(monkeypatch):
    monkeypatch.setattr(trainer_module, "build_train_loader", lambda cfg, start_iter=0: Batches(start_iter))


def config(folder, *options):
    cfg = get_cfg()
    words = ["MODEL.META_ARCHITECTURE", "TinyTestModel", "MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", ""]
    words += ["DATASETS.TEST", ("tiny_test",), "TEST.EVAL_PERIOD", 4, "SOLVER.MAX_ITER", 50, "SOLVER.STEPS", (30,)]
    words += ["SOLVER.WARMUP_ITERS", 3, "SOLVER.BASE_LR", 0.01, "SOLVER.CHECKPOINT_PERIOD", 6, "SEED", 3]
    cfg.merge_from_list([*words, "OUTPUT_DIR", str(folder), *options])
    return cfg


def start(cfg, place="", iteration=-1):
    torch.manual_seed(3)
    trainer = TinyTrainer(cfg)
    trainer.place, trainer.iteration = place, iteration
    trainer.resume_or_load(resume=True)
    return trainer


def run(cfg, place, iteration):
    with pytest.raises(Killed):
        start(cfg, place, iteration).train()
    # A run that is killed does not close its files; the writers' last lines stand for what a kill may leave.
    with open(f"{cfg.OUTPUT_DIR}/metrics.json", "ab") as file:
        file.write(b'{"half a li')


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return tmp_path_factory.mktemp("whole")


@pytest.mark.parametrize(
    "deaths",
    [
        [("step", 3)],  # before the first checkpoint
        [("step", 21), ("step", 33)],
        [("after PeriodicCheckpointer", 5), ("before EvalHook", 11), ("after EvalHook", 23), ("after EvalHook", 47)],
        [("after PeriodicCheckpointer", 41), ("after PeriodicWriter", 41), ("before PeriodicWriter", 49)],
        [("after PeriodicCheckpointer", 49)],
        [("step", 48), ("step", 48), ("step", 49)],
    ],
)
def test_metrics_and_weights_are_those_of_a_run_never_killed(tmp_path, whole, deaths):
    if not (whole / "model_final.pth").exists():
        start(config(whole)).train()
        rows = [json.loads(line) for line in (whole / "metrics.json").read_text().splitlines()]
        assert {19, 39, 49, 50} <= {row["iteration"] for row in rows}
        assert {3, 7, 47} & {row["iteration"] for row in rows if "bbox/AP" in row}
    for place, iteration in deaths:
        run(config(tmp_path), place, iteration)
    start(config(tmp_path)).train()
    assert metrics(tmp_path) == metrics(whole)
    assert differences(tmp_path, whole) == []


def test_a_finished_run_that_is_resumed_has_the_same_metrics(tmp_path):
    start(config(tmp_path)).train()
    before = metrics(tmp_path)
    start(config(tmp_path)).train()
    assert metrics(tmp_path) == before


def test_lines_after_the_checkpoint_of_another_trainer_are_cut(tmp_path):
    run(config(tmp_path), "step", 21)
    path = tmp_path / "model_0000017.pth"
    checkpoint = torch.load(path, weights_only=True)
    del checkpoint["trainer"]["hooks"]["RunHistory"], checkpoint["trainer"]["parameter_names"]
    torch.save(checkpoint, path)
    (tmp_path / "metrics.json").write_text('{"iteration": 17}\n{"iteration": 19}\n{"iteration": 4}\n')
    start(config(tmp_path))
    assert (tmp_path / "metrics.json").read_text() == '{"iteration": 17}\n'


@pytest.mark.parametrize("optimizer", ["SGD", "ADAMW"])
def test_hyperparameters_are_the_configs_and_momenta_follow_the_names(tmp_path, optimizer):
    first = ("SOLVER.OPTIMIZER", optimizer)
    run(config(tmp_path, *first), "step", 8)
    before = torch.load(tmp_path / "model_0000005.pth", weights_only=True)["trainer"]
    momenta = dict(
        zip(before["parameter_names"], (x for _, x in sorted(before["_trainer"]["optimizer"]["state"].items())))
    )
    changed = (
        "SOLVER.BASE_LR",
        0.002,
        "SOLVER.WEIGHT_DECAY",
        0.5,
        "SOLVER.WEIGHT_DECAY_BIAS",
        0.25,
        "SOLVER.MOMENTUM",
        0.5,
    )
    changed += ("SOLVER.WEIGHT_DECAY_NORM", 0.5, "SOLVER.BIAS_LR_FACTOR", 2.0)  # other groups in another order
    trainer = start(config(tmp_path, *first, *changed))
    assert trainer.start_iter == 6
    names = {id(p): name for name, p in trainer.model.named_parameters()}
    for group in trainer.optimizer.param_groups:
        for parameter in group["params"]:
            bias = names[id(parameter)].endswith("bias")
            assert group["weight_decay"] == (0.25 if bias else 0.5)
            assert group["lr"] == pytest.approx(0.004 if bias else 0.002)
            assert optimizer == "ADAMW" or group["momentum"] == 0.5
            key = "momentum_buffer" if optimizer == "SGD" else "exp_avg"
            assert torch.equal(trainer.optimizer.state[parameter][key], momenta[names[id(parameter)]][key])
    trainer.train()
    rates = [json.loads(line).get("lr") for line in (tmp_path / "metrics.json").read_text().splitlines()]
    assert max(filter(None, rates)) == pytest.approx(0.004)


def test_a_longer_schedule_with_other_steps_goes_on(tmp_path):
    start(config(tmp_path)).train()
    trainer = start(config(tmp_path, "SOLVER.MAX_ITER", 60, "SOLVER.STEPS", (55,), "SOLVER.IMS_PER_BATCH", 4))
    assert trainer.start_iter == 50 and trainer.optimizer.param_groups[0]["lr"] == pytest.approx(0.01)
    trainer.train()
    assert trainer.optimizer.param_groups[0]["lr"] == pytest.approx(0.001)


@pytest.mark.parametrize(
    "options, words",
    [
        (
            ("SOLVER.OPTIMIZER", "ADAMW"),
            "SOLVER.OPTIMIZER must be SGD to go on with .*model_0000005|SOLVER.OPTIMIZER must",
        ),
        (("SOLVER.MAX_ITER", 5, "SOLVER.STEPS", ()), "SOLVER.MAX_ITER must be 6 or more .* iteration 5; got 5"),
    ],
)
def test_what_cannot_take_effect_is_refused(tmp_path, options, words):
    run(config(tmp_path), "step", 8)
    with pytest.raises(UserError, match=words):
        start(config(tmp_path, *options))


def test_another_model_is_refused(tmp_path, monkeypatch):
    run(config(tmp_path), "step", 8)
    build = Trainer.build_model.__func__

    def wider(cls, cfg):
        model = build(cls, cfg)
        model.net[3] = torch.nn.Conv2d(4, 3, 1)
        return model

    monkeypatch.setattr(TinyTrainer, "build_model", classmethod(wider))
    with pytest.raises(UserError, match=r"--resume needs the model .* net.3.weight is \(2, 4, 1, 1\) there"):
        start(config(tmp_path))


def test_a_run_that_diverged_goes_on_from_weights_that_can(tmp_path):
    class Explodes(TinyTrainer):
        def run_step(self):
            super().run_step()
            if self.iter == 9:
                self.model.net[0].weight.data.fill_(1e30)

    cfg = config(tmp_path, "SOLVER.CHECKPOINT_PERIOD", 1)
    trainer = Explodes(cfg)
    with pytest.raises(FloatingPointError, match="go on with --resume from model_0000008.pth"):
        trainer.train()
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000008.pth"
    again = start(cfg)
    again.train()
    assert again.start_iter == 9 and (tmp_path / "model_final.pth").exists()


def test_weights_that_are_not_finite_are_not_written(tmp_path):
    model = torch.nn.Sequential(torch.nn.Linear(2, 2))
    model.register_buffer("limits", torch.tensor([1.0, float("inf")]))
    checkpointer = AdetCheckpointer(model, str(tmp_path), save_to_disk=True)
    checkpointer.save("model_0000001", iteration=1)
    model[0].bias.data[0] = float("nan")
    with pytest.raises(
        UserError, match="model_0000004.pth is not written, because 0.bias is not finite .* model_0000001"
    ):
        checkpointer.save("model_0000004", iteration=4)


@pytest.mark.parametrize("tag", [b"", b"gone.pth", b"\xff\xfe\0", b"."])
def test_a_tag_that_names_nothing_is_said(tmp_path, tag):
    (tmp_path / "last_checkpoint").write_bytes(tag)
    with pytest.raises(UserError, match="last_checkpoint must name a checkpoint of its folder"):
        AdetCheckpointer(torch.nn.Linear(2, 2), str(tmp_path)).resume_or_load("", resume=True)

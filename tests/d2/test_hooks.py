"""Hooks: when they act, what they write, what they keep for a resumed run."""

import json

import pytest
import torch

from adet_ext.d2 import ENGINE
from adet_ext.d2.engine import HookBase, TrainerBase, hooks
from adet_ext.d2.solver import LRMultiplier
from adet_ext.d2.utils import EventWriter, JSONWriter

embedded_only = pytest.mark.skipif(ENGINE != "embedded", reason="a message or a fix of the embedded engine")


class _Counting(TrainerBase):
    """A trainer whose step puts the iteration's number into the storage."""

    def __init__(self, fail_at=None):
        super().__init__()
        self.fail_at = fail_at

    def run_step(self):
        if self.iter == self.fail_at:
            raise RuntimeError("the step failed")
        self.storage.put_scalar("loss", self.iter)


class _FakeCheckpointer:
    path_manager = None

    def __init__(self):
        self.saved = []

    def save(self, name, **kwargs):
        self.saved.append((name, kwargs["iteration"]))


def _train(trainer, *trained_hooks, start=0, end=10):
    trainer.register_hooks(list(trained_hooks))
    trainer.train(start, end)
    return trainer


def test_hooks_run_in_order_around_every_step():
    calls = []

    class Recorder(HookBase):
        def __init__(self, name):
            self.name = name

        def before_train(self):
            calls.append(f"{self.name}:before_train")

        def before_step(self):
            assert self.trainer.storage.iter == self.trainer.iter
            calls.append(f"{self.name}:before_step{self.trainer.iter}")

        def after_step(self):
            calls.append(f"{self.name}:after_step{self.trainer.iter}")

        def after_train(self):
            calls.append(f"{self.name}:after_train{self.trainer.iter}")

    trainer = _Counting()
    trainer.register_hooks([Recorder("a"), None, Recorder("b")])
    trainer.train(3, 5)
    assert calls[:4] == ["a:before_train", "b:before_train", "a:before_step3", "b:before_step3"]
    assert calls[-4:] == ["a:after_step4", "b:after_step4", "a:after_train5", "b:after_train5"]


def test_after_train_runs_after_a_failure_with_the_iteration_that_failed():
    seen = []
    hook = HookBase()
    hook.after_train = lambda: seen.append(hook.trainer.iter)
    with pytest.raises(RuntimeError, match="the step failed"):
        _train(_Counting(fail_at=4), hook)
    assert seen == [4]


def test_evaluation_runs_periodically_and_once_at_the_end():
    at = []
    trainer = _Counting()
    hook = hooks.EvalHook(4, lambda: at.append(trainer.iter) or {"bbox": {"AP": 1.5}})
    _train(trainer, hook, end=12)
    assert at == [3, 7, 12]
    assert trainer.storage.latest()["bbox/AP"] == (1.5, 12)


def test_evaluation_does_not_run_after_a_failed_step():
    at = []
    with pytest.raises(RuntimeError):
        _train(_Counting(fail_at=2), hooks.EvalHook(0, lambda: at.append(1)))
    assert at == []


@pytest.mark.parametrize("result", [{"bbox": {"AP": "good"}}, {"bbox": {"AP": None}}, {"x": torch.zeros(2)}])
def test_results_that_are_no_numbers_are_refused_by_name(result):
    with pytest.raises(ValueError, match="bbox/AP|x"):
        _train(_Counting(), hooks.EvalHook(0, lambda: result), end=1)


def test_writers_write_every_period_and_what_comes_after_training(tmp_path):
    path = tmp_path / "metrics.json"
    writer = hooks.PeriodicWriter([JSONWriter(str(path))], period=4)
    evaluation = hooks.EvalHook(0, lambda: {"AP": 2.0})
    _train(_Counting(), evaluation, writer, end=10)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["iteration"] for line in lines] == [3, 7, 9, 10]
    assert lines[-1] == {"AP": 2.0, "iteration": 10}


def test_writers_are_closed_after_a_failure():
    class Writer(EventWriter):
        closed = False

        def write(self):
            pass

        def close(self):
            self.closed = True

    writer = Writer()
    with pytest.raises(RuntimeError):
        _train(_Counting(fail_at=1), hooks.PeriodicWriter([writer]))
    assert writer.closed


def test_iteration_times_leave_out_the_warm_up():
    trainer = _train(_Counting(), hooks.IterationTimer(warmup_iter=3), end=10)
    values = trainer.storage.history("time").values()
    assert [iteration for _, iteration in values] == list(range(2, 10))


def test_learning_rate_is_logged_and_moved_on():
    from fvcore.common.param_scheduler import LinearParamScheduler

    parameters = [torch.nn.Parameter(torch.zeros(1)) for _ in range(3)]
    optimizer = torch.optim.SGD([{"params": parameters[:1], "lr": 5.0}, {"params": parameters[1:], "lr": 1.0}], lr=1.0)
    hook = hooks.LRScheduler(optimizer, LRMultiplier(optimizer, LinearParamScheduler(1.0, 0.0), max_iter=4))
    trainer = _train(_Counting(), hook, end=4)
    assert [value for value, _ in trainer.storage.history("lr").values()] == [1.0, 0.75, 0.5, 0.25]
    assert hooks.LRScheduler.get_best_param_group_id(optimizer) == 1
    single = torch.optim.SGD(
        [{"params": [p], "lr": lr} for p, lr in zip(parameters, (2.0, 1.0, 1.0), strict=True)], lr=1.0
    )
    assert hooks.LRScheduler.get_best_param_group_id(single) == 1


def test_state_of_hooks_returns_to_the_hook_of_the_same_class():
    class Stateful(HookBase):
        value = 0

        def state_dict(self):
            return {"value": self.value}

        def load_state_dict(self, state):
            self.value = state["value"]

    class Other(Stateful):
        pass

    trainer, again = _Counting(), _Counting()
    trainer.register_hooks([Stateful(), Other()])
    trainer._hooks[1].value = 7
    trainer.iter = 12
    again.register_hooks([Other()])
    again.load_state_dict(trainer.state_dict())
    assert again.iter == 12 and again._hooks[0].value == 7

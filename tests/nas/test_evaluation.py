"""One evaluation: its result, what it cost, and what does not count as one."""

import math
import os
import random
import time

import numpy as np
import pytest
import torch

from adet_ext.errors import UserError
from adet_ext.nas.evaluation import Outcome, Task, limited_threads, load_factory, run_one, task_seed

TASK = Task(0, (1, 2), 7)


def test_a_result_has_the_outcome_and_its_cost():
    def evaluate(task):
        time.sleep(0.02)
        metrics = {"ap": np.float32(0.5), "loss": math.inf}
        return Outcome(torch.tensor(0.25), metrics, scores=(np.float64(0.1),), stopped=True)

    result = run_one(evaluate, TASK)
    cost = result.pop("cost")
    assert result == {
        "reward": 0.25,
        "status": "done",
        "error": "",
        "metrics": {"ap": 0.5, "loss": None},
        "scores": [0.1],
        "stopped": True,
    }
    assert 0.02 <= cost["seconds"] < 20 and cost["cpu_seconds"] <= cost["seconds"] + 1
    assert cost["process"] == os.getpid() and abs(cost["finished"] - time.time()) < 60
    assert 10 < cost["peak_memory_mb"] < 1e6


@pytest.mark.skipif(not os.path.exists("/proc/self/clear_refs"), reason="Linux alone tells the peak of a while")
def test_peak_memory_is_that_of_the_evaluation_alone():
    def evaluate(task):
        bytearray(200 * 2**20).find(b"x")
        return Outcome(1)

    with_much = run_one(evaluate, TASK)["cost"]["peak_memory_mb"]
    with_little = run_one(lambda task: Outcome(1), TASK)["cost"]["peak_memory_mb"]
    assert with_much - with_little > 150


@pytest.mark.parametrize(
    "outcome, error",
    [
        (Outcome(math.nan), "reward is nan"),
        (Outcome(-math.inf), "reward is -inf"),
        (Outcome(1, scores=(0, math.nan)), "score 1 is nan"),
    ],
)
def test_numbers_that_are_not_finite_fail(outcome, error):
    result = run_one(lambda task: outcome, TASK)
    assert (result["status"], result["reward"], result["error"], result["scores"]) == ("failed", None, error, [])


def test_an_exception_fails_with_its_type_and_its_text_on_one_line():
    def evaluate(task):
        raise RuntimeError("out of memory:\n  tried to allocate")

    result = run_one(evaluate, TASK)
    assert (result["status"], result["error"]) == ("failed", "RuntimeError: out of memory: tried to allocate")


def test_a_user_error_and_a_stop_are_not_failures_of_an_architecture():
    for error in (UserError("no images"), KeyboardInterrupt(), SystemExit(143)):

        def evaluate(task, error=error):
            raise error

        with pytest.raises(type(error)):
            run_one(evaluate, TASK)
    with pytest.raises(UserError, match="must return an Outcome; got float"):
        run_one(lambda task: 0.5, TASK)


def test_global_generators_start_from_the_seed_of_the_task():
    def evaluate(task):
        return Outcome(random.random() + np.random.rand() + torch.rand(()))

    first, again = (run_one(evaluate, TASK)["reward"] for _ in range(2))
    other = run_one(evaluate, Task(1, (1, 2), 8))["reward"]
    assert first == again != other


def test_seeds_of_tasks_depend_on_seed_and_index_alone_and_differ():
    seeds = {task_seed(seed, index) for seed in range(10) for index in range(100)}
    assert len(seeds) == 1000 and all(0 <= seed < 2**31 for seed in seeds)
    assert task_seed(3, 4) == 681136385  # journals depend on it


@pytest.mark.parametrize(
    "name, said",
    [
        ("tests.nas.toy", "must be named as package.module:function; got 'tests.nas.toy'"),
        ("tests.nas.toi:factory", "there is no module tests.nas.toi. Put its folder on PYTHONPATH"),
        ("tests.nas.toy:nothing", "must have a function nothing"),
        ("tests.nas.toy:FACTORY", "must have a function FACTORY"),
    ],
)
def test_a_factory_that_is_not_there_is_a_sentence(name, said):
    with pytest.raises(UserError, match=said):
        load_factory(name)
    assert callable(load_factory("tests.nas.toy:factory"))


def test_threads_are_limited_within_and_as_before_afterwards(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    before = torch.get_num_threads()
    with limited_threads(2):
        assert torch.get_num_threads() == 2 and os.environ["MKL_NUM_THREADS"] == "2"
    assert torch.get_num_threads() == before and os.environ["OMP_NUM_THREADS"] == "3"
    assert "MKL_NUM_THREADS" not in os.environ


def test_the_peak_of_a_gpu_is_the_evaluation_s_and_its_memory_is_given_back_after_a_failure(monkeypatch):
    class Gpu:  # stands in for torch.cuda
        calls = []

        def reset_peak_memory_stats(self):
            self.calls.append("reset")

        def max_memory_allocated(self):
            return 3 * 2**20

        def empty_cache(self):
            self.calls.append("empty")

    monkeypatch.setattr("adet_ext.nas.evaluation._gpu", Gpu)

    def evaluate(task):
        Gpu.calls.append("evaluate")
        if task.index:
            raise RuntimeError("CUDA out of memory")
        return Outcome(1)

    assert run_one(evaluate, TASK)["cost"]["peak_gpu_memory_mb"] == 3
    assert Gpu.calls == ["reset", "evaluate"]
    run_one(evaluate, Task(1, (1, 2), 7))
    assert Gpu.calls[2:] == ["reset", "evaluate", "empty"]

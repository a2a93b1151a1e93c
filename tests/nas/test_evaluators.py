"""Evaluators: one result per task, whoever dies meanwhile."""

import contextlib
import os
import signal
import subprocess
import sys
import time

import pytest

from adet_ext.errors import UserError
from adet_ext.nas.evaluation import Task
from adet_ext.nas.evaluators import LOST, evaluate_all, make_evaluator

from . import light, toy

TASKS = [Task(index, (index % 3 + 1, 0, 1, 2, index % 4), 11 * index) for index in range(7)]


def evaluated(settings, workers, tasks=TASKS):
    """Results by index."""
    with contextlib.closing(make_evaluator(toy.FACTORY, settings, workers=workers)) as evaluator:
        return {task.index: result for task, result in evaluate_all(evaluator, tasks)}


def without_cost(results):
    return {index: {k: v for k, v in result.items() if k != "cost"} for index, result in results.items()}


def test_a_pool_finds_what_this_process_finds(light_workers):
    here, there = (evaluated({"seconds": 0.01}, workers) for workers in (0, 3))
    assert without_cost(here) == without_cost(there) and len(here) == len(TASKS)
    assert {result["cost"]["process"] for result in here.values()} == {os.getpid()}
    processes = {result["cost"]["process"] for result in there.values()}
    assert len(processes) == 3 and os.getpid() not in processes
    assert {result["cost"]["worker"] for result in there.values()} == {0, 1, 2}


def test_workers_that_are_killed_cost_their_own_evaluation_which_is_given_out_again(light_workers, tmp_path, caplog):
    results = evaluated({"kill_once": [1, 4], "marks": str(tmp_path)}, 2)
    assert without_cost(results) == without_cost(evaluated({}, 0))
    assert "was ended by SIGKILL; another one is started" in caplog.text
    assert [bool(results[index]["cost"].get("failures")) for index in range(7)] == [i in (1, 4) for i in range(7)]


def test_an_architecture_that_kills_three_workers_has_failed_and_the_others_go_on(light_workers):
    results = evaluated({"kill": [2]}, 2)
    assert (results[2]["status"], results[2]["reward"], results[2]["error"]) == ("failed", None, LOST)
    assert len(results[2]["cost"]["failures"]) == 3 and "SIGKILL" in results[2]["cost"]["failures"][0]
    assert "how" not in results[2]["cost"] and results[2]["cost"]["seconds"] > 0
    assert all(results[index]["status"] == "done" for index in range(7) if index != 2)


def test_a_process_lost_at_the_last_attempt_does_not_hide_the_error_of_the_others():
    class Losing:
        results = [("failed", "reward is nan"), ("failed", LOST), ("failed", LOST)]

        def submit(self, task):
            pass

        def wait(self):
            status, error = self.results.pop(0)
            return Task(0, (), 0), {"status": status, "error": error, "cost": {"seconds": 1.0}}

    ((_, result),) = evaluate_all(Losing(), [Task(0, (), 0)])
    assert result["error"] == "reward is nan" and result["cost"]["failures"] == ["reward is nan", LOST, LOST]


def test_an_evaluation_that_fails_is_tried_three_times(tmp_path):
    tries = []

    class Counting:
        def submit(self, task):
            tries.append(task.index)

        def wait(self):
            index = tries[-1] if len(tries) > 2 else tries[0]
            good = index == 0 and tries.count(0) == 2
            cost = {"seconds": 1.0}
            return Task(index, (), 0), {"status": "done" if good else "failed", "error": "e", "cost": cost}

    results = [(task.index, result) for task, result in evaluate_all(Counting(), [Task(0, (), 0)])]
    assert tries == [0, 0] and results[0][1]["cost"] == {"seconds": 2.0, "failures": ["e"]}
    tries.clear()
    results = [(task.index, result) for task, result in evaluate_all(Counting(), [Task(1, (), 0)])]
    assert tries == [1, 1, 1] and results[0][1]["cost"] == {"seconds": 3.0, "failures": ["e", "e", "e"]}


@pytest.mark.parametrize("workers", [0, 2])
def test_what_the_user_has_to_put_right_ends_the_evaluation_in_one_sentence(light_workers, workers):
    with pytest.raises(UserError, match="^The proxy must have images; got none. Name a folder with some.$"):
        evaluated({"wrong": [3]}, workers)
    with pytest.raises(UserError, match="^no data$"):
        evaluated({"broken": "no data"}, workers)


def test_workers_that_cannot_start_are_not_started_for_ever(light_workers):
    with pytest.raises(UserError, match="Workers must be able to start; worker 0 ended with status 3 while it started"):
        evaluated({"exit": True}, 1)


def test_closing_ends_workers_that_wait_and_workers_that_work(light_workers):
    with contextlib.closing(make_evaluator(toy.FACTORY, {"seconds": 60}, workers=2)) as evaluator:
        evaluator.submit(TASKS[1])
        processes = [worker.handle.process for worker in evaluator._workers]
        assert all(process.is_alive() for process in processes)
    assert not any(process.is_alive() for process in processes)


def test_workers_do_not_listen_to_ctrl_c_and_sigterm(light_workers):
    with contextlib.closing(make_evaluator(toy.FACTORY, {"seconds": 0.3}, workers=1)) as evaluator:
        evaluator.submit(TASKS[1])
        process = evaluator._workers[0].process
        for number in (signal.SIGINT, signal.SIGTERM):
            os.kill(process, number)
        _, result = evaluator.wait()
    assert result["cost"]["process"] == process and result["status"] == "done"


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs Linux")
def test_workers_end_when_their_parent_is_killed():
    code = (
        "import sys, tests.nas.light as light\n"
        "sys.modules['__main__'].__file__ = light.__file__\n"
        "from adet_ext.nas.pool import Pool; from adet_ext.nas.evaluation import Task\n"
        "pool = Pool('tests.nas.toy:factory', {'seconds': 60}, workers=1)\n"
        "pool.submit(Task(1, (1, 0, 0, 0, 0), 0)); print(pool._workers[0].process, flush=True); pool.wait()"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=light.ROOT, stdout=subprocess.PIPE, text=True)
    worker = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    end = time.monotonic() + 10
    while _runs(worker) and time.monotonic() < end:
        time.sleep(0.02)
    assert not _runs(worker)


def _runs(process: int) -> bool:
    try:
        with open(f"/proc/{process}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"  # a zombie has ended
    except FileNotFoundError:
        return False

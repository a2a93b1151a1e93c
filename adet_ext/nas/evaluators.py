"""Who evaluates: this process, a pool of worker processes, or a Ray cluster, behind one interface."""

import collections
import logging
import time
from collections.abc import Iterator, Sequence
from typing import Protocol

from .evaluation import Task, make_evaluate, run_one

__all__ = ["ATTEMPTS", "LOST", "Evaluator", "InProcess", "evaluate_all", "lost", "make_evaluator"]

logger = logging.getLogger(__name__)

ATTEMPTS = 3

# What the journal says, whichever evaluator lost the process; the log and the cost say how it ended.
LOST = "the process that evaluated it ended without a result, as out of memory for example"


class Evaluator(Protocol):
    """Evaluates tasks in any order, each once per :meth:`submit`. Making one starts what it needs."""

    def submit(self, task: Task) -> None:
        """Take a task; returns at once."""

    def wait(self) -> tuple[Task, dict]:
        """Return a task that was submitted, and its result as :func:`~adet_ext.nas.evaluation.run_one` has it.

        Raises:
            UserError: an evaluation says that the user has to put something right.
        """

    def close(self) -> None:
        """End all processes, also those that are at work."""


class InProcess:
    """Evaluates in this process, one task after the other.

    Raises:
        UserError: there is no such factory, or it says that the user has to put something right.
    """

    def __init__(self, factory: str, settings: dict, threads: int = 1):
        self._evaluate = make_evaluate(factory, settings, threads)
        self._tasks: collections.deque[Task] = collections.deque()

    def submit(self, task: Task) -> None:
        """See :class:`Evaluator`."""
        self._tasks.append(task)

    def wait(self) -> tuple[Task, dict]:
        """See :class:`Evaluator`."""
        task = self._tasks.popleft()
        result = run_one(self._evaluate, task)
        result["cost"]["worker"] = 0
        return task, result

    def close(self) -> None:
        """See :class:`Evaluator`."""


def evaluate_all(evaluator: Evaluator, tasks: Sequence[Task]) -> Iterator[tuple[Task, dict]]:
    """Yield every task with its result, as they finish.

    One that fails is given out again, until it has failed ``ATTEMPTS`` times. Its cost then has ``failures``, what each
    said, and the seconds of all attempts.
    """
    failures: dict[int, list[str]] = {task.index: [] for task in tasks}
    seconds = dict.fromkeys(failures, 0.0)
    for task in tasks:
        evaluator.submit(task)
    while failures:
        task, result = evaluator.wait()
        said = failures[task.index]
        if result["status"] == "failed":
            said.append(result["cost"].pop("how", result["error"]))
            logger.warning("architecture %d failed (%d of %d): %s", task.index, len(said), ATTEMPTS, said[-1])
            if len(said) < ATTEMPTS:
                seconds[task.index] += result["cost"]["seconds"]
                evaluator.submit(task)
                continue
        del failures[task.index]
        if said:
            result["cost"].update(failures=said, seconds=round(result["cost"]["seconds"] + seconds[task.index], 4))
        yield task, result


def lost(worker: int, process: int, seconds: float, how: str) -> dict:
    """Return the result of a task whose process ended; ``how`` says more than the journal may."""
    result = {"reward": None, "status": "failed", "error": LOST, "metrics": {}, "scores": [], "stopped": False}
    cost = {"seconds": round(seconds, 4), "process": process, "finished": round(time.time(), 3), "worker": worker}
    return {**result, "cost": {**cost, "how": how}}


def make_evaluator(factory: str, settings: dict, *, workers: int = 0, ray: str = "", threads: int = 1) -> Evaluator:
    """Start an evaluator.

    Args:
        workers: processes; 0 stands for this one, and with Ray for as many as the cluster has cores for.
        ray: the address of a Ray cluster; "local" starts one on this machine.
        threads: of torch, in each process.

    Raises:
        UserError: there is no such factory, it says that something has to be put right, or the cluster does not answer.
    """
    if ray:
        from .ray_cluster import RayCluster

        return RayCluster(ray, factory, settings, workers=workers, threads=threads)
    if workers:
        from .pool import Pool

        return Pool(factory, settings, workers=workers, threads=threads)
    return InProcess(factory, settings, threads)

"""What a pool and a Ray cluster have in common: workers that get one task at a time and are replaced when they die."""

import abc
import collections
import dataclasses
import logging
import time
import traceback
from collections.abc import Iterable
from typing import Any

from ..errors import UserError
from .evaluation import Evaluate, Task, make_evaluate, run_one
from .evaluators import ATTEMPTS, lost

__all__ = ["Crew", "Message", "Worker", "answer", "prepare"]

logger = logging.getLogger(__name__)

# What a worker says: ("ready", its process), ("result", ...), ("user error", text) or ("defect", text).
Message = tuple[str, Any]


@dataclasses.dataclass
class Worker:
    """A worker process as its parent sees it.

    Attributes:
        handle: what the crew needs to reach it.
        ready: whether it has said so.
        task: what it is at work on, since the time ``since``.
    """

    number: int
    handle: Any
    process: int | None = None
    ready: bool = False
    task: Task | None = None
    since: float = 0.0


class Crew(abc.ABC):
    """An :class:`~adet_ext.nas.evaluators.Evaluator` of several processes. A subclass knows how to reach them."""

    def __init__(self, workers: int):
        """Start all workers and wait until they are ready; end them again where one cannot be."""
        self._tasks: collections.deque[Task] = collections.deque()
        self._results: collections.deque[tuple[Task, dict]] = collections.deque()
        self._bad_starts = 0
        self._workers: list[Worker] = []
        try:
            for number in range(workers):
                self._workers.append(self._start(number))
            while not all(worker.ready for worker in self._workers):
                self._listen()
        except BaseException:
            self.close()
            raise

    @abc.abstractmethod
    def _start(self, number: int) -> Worker:
        """Start a worker; it will say whether it is ready."""

    @abc.abstractmethod
    def _send(self, worker: Worker, task: Task) -> None:
        """Give a task to a worker that may be dead."""

    @abc.abstractmethod
    def _hear(self) -> Iterable[tuple[Worker, Message | None]]:
        """Wait until a worker says something; None where it is dead."""

    @abc.abstractmethod
    def _bury(self, worker: Worker) -> str:
        """Let go of a dead worker; return how it ended, as "worker 1 ended with status 3"."""

    @abc.abstractmethod
    def close(self) -> None:
        """See :class:`~adet_ext.nas.evaluators.Evaluator`."""

    def submit(self, task: Task) -> None:
        """See :class:`~adet_ext.nas.evaluators.Evaluator`."""
        self._tasks.append(task)
        self._give_out()

    def wait(self) -> tuple[Task, dict]:
        """See :class:`~adet_ext.nas.evaluators.Evaluator`."""
        while not self._results:
            self._listen()
        return self._results.popleft()

    def _give_out(self) -> None:
        for worker in self._workers:
            if worker.ready and worker.task is None and self._tasks:
                worker.task, worker.since = self._tasks.popleft(), time.perf_counter()
                self._send(worker, worker.task)

    def _listen(self) -> None:
        for worker, message in list(self._hear()):
            if message is None:
                self._replace(worker)
                continue
            kind, value = message
            if kind == "user error":
                raise UserError(value)
            if kind == "defect":
                raise RuntimeError(f"a worker cannot evaluate:\n{value}")
            if kind == "result":
                value["cost"]["worker"] = worker.number
                self._results.append((worker.task, value))
            else:
                worker.process = value
            worker.ready, worker.task, self._bad_starts = True, None, 0
        self._give_out()

    def _replace(self, worker: Worker) -> None:
        how = self._bury(worker)
        if worker.task is not None:
            seconds = time.perf_counter() - worker.since
            self._results.append((worker.task, lost(worker.number, worker.process, seconds, how)))
        elif not worker.ready:
            self._bad_starts += 1
            if self._bad_starts == ATTEMPTS:
                self._workers.remove(worker)
                raise UserError(
                    f"Workers must be able to start; {how} while it started, as others before. Take fewer workers, or "
                    "evaluate in this process to see why."
                )
        logger.warning("%s; another one is started", how)
        self._workers[self._workers.index(worker)] = self._start(worker.number)


def prepare(factory: str, settings: dict, threads: int) -> tuple[Evaluate | None, Message]:
    """Make the process of a worker ready; return its evaluation, and what to say."""
    return _said(lambda: (make_evaluate(factory, settings, threads), ("ready", None)))


def answer(evaluate: Evaluate, task: Task) -> Message:
    """Evaluate in a worker; return what to say."""
    return _said(lambda: (None, ("result", run_one(evaluate, task))))[1]


def _said(do) -> tuple[Any, Message]:
    try:
        return do()
    except UserError as error:
        return None, ("user error", str(error))
    except Exception:  # whatever it is, the process that waits for the answer raises it, with this traceback
        return None, ("defect", traceback.format_exc())

"""A pool of worker processes on this machine."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from multiprocessing import connection, resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import NamedTuple

from ..utils.stopping import held_back
from .crew import Crew, Message, Worker, answer, prepare
from .evaluation import Task

__all__ = ["Pool"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class _Handle(NamedTuple):
    process: BaseProcess
    pipe: Connection


class Pool(Crew):
    """Evaluates in ``workers`` processes, which are started anew, not forked.

    Workers do not listen to Ctrl-C and SIGTERM, which terminals and schedulers send to all processes: the parent ends
    them. They end by themselves when the parent is gone.

    Args:
        factory, settings: see :func:`~adet_ext.nas.evaluation.load_factory`.
        threads: of torch, in each worker.

    Raises:
        UserError: the workers cannot be made ready.
    """

    def __init__(self, factory: str, settings: dict, *, workers: int, threads: int = 1):
        self._arguments = (factory, settings, threads)
        super().__init__(workers)

    def _start(self, number: int) -> Worker:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_work, args=(theirs, *self._arguments), name=f"evaluator {number}")
        if os.name == "posix":
            resource_tracker.ensure_running()  # started within, it would let the signals through again
        with held_back():
            process.start()
        theirs.close()
        return Worker(number, _Handle(process, ours))

    def _send(self, worker: Worker, task: Task) -> None:
        try:
            worker.handle.pipe.send(task)
        except OSError:  # it is dead, as its pipe will tell
            pass

    def _hear(self) -> Iterator[tuple[Worker, Message | None]]:
        speaking = connection.wait([worker.handle.pipe for worker in self._workers])
        for worker in list(self._workers):
            if worker.handle.pipe in speaking:
                try:
                    message = worker.handle.pipe.recv()
                except Exception:  # its end, perhaps in the middle of a message
                    message = None
                yield worker, message

    def _bury(self, worker: Worker) -> str:
        process, pipe = worker.handle
        process.join(5)  # it has closed its pipe
        _kill(process)
        pipe.close()
        code = process.exitcode
        if code >= 0:
            return f"worker {worker.number} ended with status {code}"
        return f"worker {worker.number} was ended by {signal.Signals(-code).name}"

    def close(self) -> None:
        """See :class:`~adet_ext.nas.evaluators.Evaluator`."""
        for worker in self._workers:
            worker.handle.pipe.close()  # one that listens leaves when there is nobody
            if worker.task is not None or not worker.ready:
                worker.handle.process.kill()
        for worker in self._workers:
            worker.handle.process.join(5)
            _kill(worker.handle.process)
        self._workers = []


def _kill(process: BaseProcess) -> None:
    if process.is_alive():
        process.kill()
        process.join()


def _work(pipe: Connection, factory: str, settings: dict, threads: int) -> None:
    """What a worker does: say that it is ready, then answer each task with a result, until nobody asks."""
    _ignore_signals()
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    evaluate, message = prepare(factory, settings, threads)
    if message[0] == "ready":
        message = ("ready", os.getpid())
    try:
        while True:
            pipe.send(message)
            message = answer(evaluate, pipe.recv())
    except (EOFError, OSError):  # nobody listens any more
        return


def _ignore_signals() -> None:
    """Answer neither Ctrl-C nor SIGTERM. What is started from here does, as by default."""
    here = os.getpid()

    def ignore(number: int, frame: object) -> None:
        if os.getpid() != here:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    for number in _SIGNALS:
        signal.signal(number, ignore)
    if hasattr(signal, "pthread_sigmask"):  # they were held back while this process started
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)


def _leave_with_parent() -> None:
    connection.wait([multiprocessing.parent_process().sentinel])
    os._exit(1)

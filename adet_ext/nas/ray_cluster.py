"""A Ray cluster: one actor per worker. Ray itself is imported only here, when a cluster is asked for."""

import os
import socket
import sys
from collections.abc import Iterator
from typing import NamedTuple

from ..errors import UserError, one_line
from .crew import Crew, Message, Worker
from .evaluation import Task

__all__ = ["RayCluster"]

PATIENCE = 3.0  # seconds for an address to answer

# The first bytes of HTTP/2, which Ray's servers speak, and an empty frame of settings, to be answered by another.
_GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])


class _Handle(NamedTuple):
    actor: object
    pending: list  # the one future that is waited for, or none


class RayCluster(Crew):
    """Evaluates in actors of a Ray cluster. Every node needs this package and the project's.

    The GPUs of the cluster, if it has any, are shared out equally among the workers.

    Args:
        address: "local" starts a cluster on this machine, for this process; "auto" takes the one that runs on this
            machine; else HOST:PORT, or ray://HOST:PORT from outside the cluster.
        factory, settings: see :func:`~adet_ext.nas.evaluation.load_factory`.
        workers: 0 stands for as many as the cluster has cores for.
        threads: of torch, and so cores, for each worker.

    Raises:
        UserError: Ray is not installed, the address does not answer, the cluster has too few cores, or the workers
            cannot be made ready.
    """

    def __init__(self, address: str, factory: str, settings: dict, *, workers: int = 0, threads: int = 1):
        self._ray = _import_ray()
        self._arguments = (list(sys.path), factory, settings, threads)
        self._connected = not self._ray.is_initialized()
        if self._connected:
            _connect(self._ray, address, workers * threads)
        self._workers: list[Worker] = []
        try:
            resources = self._ray.cluster_resources()
            cores = int(resources.get("CPU", 0))
            if max(1, workers) * threads > cores:
                raise UserError(
                    f"--workers times --threads must be at most the {cores} cores of the Ray cluster at {address}; got "
                    f"{max(1, workers)} times {threads}. Take fewer."
                )
            workers = workers or cores // threads
            share = min(1.0, int(10000 * resources.get("GPU", 0) / workers) / 10000)
            self._actor = _actor_class(self._ray, threads, share)
        except BaseException:
            self.close()
            raise
        super().__init__(workers)

    def _start(self, number: int) -> Worker:
        actor = self._actor.remote()
        return Worker(number, _Handle(actor, [actor.prepare.remote(*self._arguments)]))

    def _send(self, worker: Worker, task: Task) -> None:
        worker.handle.pending.append(worker.handle.actor.answer.remote(task))

    def _hear(self) -> Iterator[tuple[Worker, Message | None]]:
        futures = {worker.handle.pending[0]: worker for worker in self._workers if worker.handle.pending}
        for future in self._ray.wait(list(futures), num_returns=1)[0]:
            futures[future].handle.pending.clear()
            try:
                yield futures[future], self._ray.get(future)
            except self._ray.exceptions.RayTaskError:  # of ours, not of the evaluation
                raise
            except self._ray.exceptions.RayError:  # the actor died, or its node, or Ray took its memory back
                yield futures[future], None

    def _bury(self, worker: Worker) -> str:
        self._ray.kill(worker.handle.actor)
        return f"worker {worker.number}, process {worker.process or 'unknown'}, ended in the Ray cluster"

    def close(self) -> None:
        """See :class:`~adet_ext.nas.evaluators.Evaluator`."""
        for worker in self._workers:
            self._ray.kill(worker.handle.actor)
        self._workers = []
        if self._connected:
            self._ray.shutdown()


def _import_ray():
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a cluster of ours reports to nobody
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # Ray warns that this will be the default
    try:
        import ray
    except ImportError as error:
        raise UserError(f"--ray needs Ray, which cannot be imported ({error}). Do pip install ray.") from error
    return ray


def _connect(ray, address: str, cores: int) -> None:
    options = {"logging_level": "ERROR", "log_to_driver": False}
    if address == "local":
        options |= {"num_cpus": cores or None, "include_dashboard": False, "object_store_memory": 100 * 2**20}
    elif address != "auto":
        _check_answer(address)
    try:
        ray.init(address=address, **options)
    except Exception as error:
        raise UserError(
            f"--ray must be the address of a running Ray cluster; {address} is not: {one_line(error)[:300]}"
        ) from error


def _check_answer(address: str) -> None:
    """Ask for an answer at an address: Ray itself would wait for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise UserError(f"--ray must be local, auto, HOST:PORT or ray://HOST:PORT; got {address}.")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=PATIENCE) as connection:
            if os.environ.get("RAY_USE_TLS", "0") not in ("", "0"):
                return
            connection.settimeout(PATIENCE)
            connection.sendall(_GREETING)
            frame = connection.recv(9)
    except OSError as error:
        frame, reason = b"", one_line(error)
    else:
        reason = "something else listens there"
    if len(frame) < 4 or frame[3] != 4:
        raise UserError(
            f"--ray must be the address of a running Ray cluster; {address} does not answer ({reason}). "
            "Start it with ray start --head, or take local."
        )


def _actor_class(ray, threads: int, gpus: float):
    """The class of workers. It is sent to them as it stands here: they have yet to learn where our modules are."""

    class Evaluator:
        def prepare(self, path, factory, settings, threads):
            import os
            import sys

            sys.path += [folder for folder in path if folder not in sys.path and os.path.isdir(folder)]
            from adet_ext.nas import crew

            self._evaluate, (kind, value) = crew.prepare(factory, settings, threads)
            return kind, os.getpid() if kind == "ready" else value

        def answer(self, task):
            import socket

            from adet_ext.nas import crew

            kind, value = crew.answer(self._evaluate, task)
            if kind == "result":
                value["cost"]["host"] = socket.gethostname()
            return kind, value

    return ray.remote(num_cpus=threads, num_gpus=gpus)(Evaluator)

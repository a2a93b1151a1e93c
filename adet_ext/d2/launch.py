"""Start a job of several processes, or join the job that torchrun has started; the same for both engines."""

import os
import socket
import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from ..errors import UserError
from ..utils.stopping import Terminated
from .utils import comm

DEFAULT_TIMEOUT = timedelta(minutes=30)
# Seconds that processes may take to stop after SIGTERM before they are killed.
_PATIENCE = 20


def started_by_torchrun() -> bool:
    """Whether the environment describes the job and the process, as torchrun's does."""
    return all(name in os.environ for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR"))


def join_torchrun(main_func: Callable, args: tuple = (), timeout: timedelta = DEFAULT_TIMEOUT) -> Any:
    """Join the job that the environment describes and return ``main_func(*args)``."""
    world_size = int(os.environ["WORLD_SIZE"])
    if world_size == 1 or dist.is_initialized():
        return main_func(*args)
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", world_size))
    _check_gpus(processes)
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    try:
        dist.init_process_group("nccl" if on_gpu else "gloo", timeout=timeout)
    except (RuntimeError, ValueError) as error:
        where = f"{os.environ['MASTER_ADDR']}:{os.environ.get('MASTER_PORT')}"
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"the processes cannot meet at tcp://{where} (--dist-url): {reason}") from error
    comm.create_local_process_group(processes)
    comm.synchronize()  # wait for all processes, so that none times out later
    try:
        return main_func(*args)
    finally:
        _leave_job()


def _leave_job() -> None:
    """End the communication, and drop the groups that ``comm`` keeps.

    A group ends its threads when nothing refers to it any more. Threads of gloo that are left when the interpreter
    shuts down can abort the process.
    """
    dist.destroy_process_group()
    comm._LOCAL_PROCESS_GROUP = None
    comm.create_local_process_group.cache_clear()
    comm._get_global_gloo_group.cache_clear()


def launch(
    main_func: Callable,
    num_gpus_per_machine: int,
    num_machines: int = 1,
    machine_rank: int = 0,
    dist_url: str | None = None,
    args: tuple = (),
    timeout: timedelta = DEFAULT_TIMEOUT,
) -> Any:
    """Run ``main_func(*args)`` in ``num_gpus_per_machine`` processes here; call it on every machine.

    Processes communicate by NCCL, each with its own GPU, or by gloo if there is no GPU. A job of one or zero processes
    runs in this process; ``--num-gpus 0`` means the CPU. A process that torchrun has started joins the job of its
    environment instead, and the counts given here are ignored.

    Args:
        dist_url: where the processes connect, ``tcp://host:port``; "auto" finds a free port (one machine).

    Raises:
        UserError: counts, address or port do not fit, or a process raised one.
        Terminated: SIGTERM arrived here or in a process; all processes have stopped.
    """
    if started_by_torchrun():
        return join_torchrun(main_func, args, timeout)
    address = _check_job(num_gpus_per_machine, num_machines, machine_rank, dist_url)
    if num_machines * num_gpus_per_machine <= 1:
        return main_func(*args)
    environment = {
        "WORLD_SIZE": num_machines * num_gpus_per_machine,
        "LOCAL_WORLD_SIZE": num_gpus_per_machine,
        "MASTER_ADDR": address.hostname,
        "MASTER_PORT": address.port,
    }
    sentences = mp.get_context("spawn").SimpleQueue()
    first_rank = machine_rank * num_gpus_per_machine
    job = mp.start_processes(
        _worker,
        nprocs=num_gpus_per_machine,
        args=(first_rank, environment, main_func, args, timeout, sentences),
        daemon=False,
        join=False,
    )
    _wait(job, sentences)
    return None


def _check_job(processes: int, machines: int, rank: int, dist_url: str | None) -> Any:
    """Check counts and address of a job, and return the address, or None for one process."""
    if processes < 0:
        raise UserError(f"--num-gpus must be 0 (one process on the CPU) or more; got {processes}")
    if machines < 1 or not 0 <= rank < machines:
        raise UserError(
            f"--num-machines must be 1 or more and --machine-rank from 0 to one less; got {machines} and {rank}"
        )
    if processes == 0 and machines > 1:
        raise UserError("--num-gpus must be 1 or more with several machines; got 0")
    _check_gpus(processes)
    if processes * machines <= 1:
        return None
    if dist_url in (None, "", "auto"):
        if machines > 1:
            raise UserError("--dist-url must be tcp://ADDRESS-OF-MACHINE-0:PORT with several machines; got none")
        dist_url = f"tcp://127.0.0.1:{_free_port()}"
    address = urlsplit(dist_url)
    try:
        complete = address.scheme == "tcp" and address.hostname and address.port
    except ValueError:  # a port that is not a number, or too large
        complete = False
    if not complete:
        raise UserError(f"--dist-url must be tcp://ADDRESS-OF-MACHINE-0:PORT, or auto; got {dist_url}")
    if rank == 0 and not _is_free(address.port):
        raise UserError(
            f"--dist-url must name a free port; port {address.port} of {dist_url} is taken, by another run perhaps. "
            "Name another port, or --dist-url auto on one machine"
        )
    return address


def _check_gpus(processes: int) -> None:
    if torch.cuda.is_available() and processes > torch.cuda.device_count():
        raise UserError(
            f"--num-gpus must be {torch.cuda.device_count()} or less, the number of GPUs of this machine; got "
            f"{processes}. Start one process per GPU, or hide the GPUs (CUDA_VISIBLE_DEVICES='') to run on the CPU"
        )


def _free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # allow a port that an ended run has left
        try:
            probe.bind(("", port))
            probe.listen()
        except OSError:
            return False
    return True


def _wait(job: mp.ProcessContext, sentences: Any) -> None:
    """Wait for the processes. Raise the first error, and pass SIGTERM on to all of them."""
    try:
        while not job.join():
            pass
    except mp.ProcessExitedException as error:
        if error.exit_code == 143:
            raise _terminated(sentences) from error
        if not sentences.empty():
            raise UserError(sentences.get()) from error
        raise
    except (Terminated, KeyboardInterrupt) as stop:
        for process in job.processes:
            process.terminate()
        killer = threading.Timer(_PATIENCE, lambda: [process.kill() for process in job.processes])
        killer.daemon = True
        killer.start()
        for process in job.processes:
            process.join()
        killer.cancel()
        if isinstance(stop, Terminated):
            raise _terminated(sentences) from stop
        raise


def _terminated(sentences: Any) -> Terminated:
    """Return the error for SIGTERM, with what a process says about the checkpoint, if it does."""
    return Terminated() if sentences.empty() else Terminated(sentences.get())


def _worker(
    local_rank: int,
    first_rank: int,
    environment: dict,
    main_func: Callable,
    args: tuple,
    timeout: timedelta,
    sentences: Any,
) -> None:
    environment = {**environment, "RANK": first_rank + local_rank, "LOCAL_RANK": local_rank}
    os.environ.update({name: str(value) for name, value in environment.items()})
    if "OMP_NUM_THREADS" not in os.environ:
        # With as many threads as cores in every process, they would wait for each other most of the time.
        torch.set_num_threads(max(torch.get_num_threads() // environment["LOCAL_WORLD_SIZE"], 1))
    try:
        join_torchrun(main_func, args, timeout)
    except UserError as error:
        sentences.put(str(error))
        raise SystemExit(2) from error
    except Terminated as stop:
        sentences.put(stop.message)
        raise

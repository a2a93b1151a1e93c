"""Starting a job of several processes: our own, or joining those that torchrun has started."""

import os
import socket
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from . import comm

DEFAULT_TIMEOUT = timedelta(minutes=30)


def started_by_torchrun() -> bool:
    """Whether the environment says which process of which job this is, as torchrun's does."""
    return all(name in os.environ for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR"))


def join_torchrun(
    main_func: Callable,
    args: tuple = (),
    timeout: timedelta = DEFAULT_TIMEOUT,
    *,
    create_local_group: Callable[[int], Any] = comm.create_local_process_group,
) -> Any:
    """Join the job that the environment describes and return ``main_func(*args)``.

    ``create_local_group`` is the engine's own ``comm.create_local_process_group``.
    """
    world_size = int(os.environ["WORLD_SIZE"])
    if world_size == 1 or dist.is_initialized():
        return main_func(*args)
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", world_size))
    _check_gpus(processes)
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if on_gpu else "gloo", timeout=timeout)
    create_local_group(processes)
    comm.synchronize()  # nobody goes on, and possibly times out, before all have come
    try:
        return main_func(*args)
    finally:
        dist.destroy_process_group()


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

    Processes talk through NCCL, each on a GPU of its own, or through gloo where there is no GPU. One
    process in total is this one. In a process that torchrun has started, nothing is started: it joins
    the job described by its environment, and the counts given here are ignored.

    Args:
        dist_url: where the processes meet, ``tcp://host:port``; "auto" finds a free port (one machine).

    Raises:
        ValueError: more processes than GPUs, or "auto" (or nothing) as ``dist_url`` with several machines.
    """
    if started_by_torchrun():
        return join_torchrun(main_func, args, timeout)
    world_size = num_machines * num_gpus_per_machine
    if world_size == 1:
        return main_func(*args)
    if dist_url in (None, "auto"):
        if num_machines > 1:
            raise ValueError("with several machines --dist-url has to be tcp://ADDRESS-OF-MACHINE-0:PORT")
        dist_url = f"tcp://127.0.0.1:{_free_port()}"
    address = urlsplit(dist_url)
    if address.scheme != "tcp" or not address.port:
        raise ValueError(f"--dist-url is {dist_url!r}; it has to be tcp://ADDRESS-OF-MACHINE-0:PORT")
    _check_gpus(num_gpus_per_machine)
    environment = {
        "WORLD_SIZE": world_size,
        "LOCAL_WORLD_SIZE": num_gpus_per_machine,
        "MASTER_ADDR": address.hostname,
        "MASTER_PORT": address.port,
    }
    mp.start_processes(
        _worker,
        nprocs=num_gpus_per_machine,
        args=(machine_rank * num_gpus_per_machine, environment, main_func, args, timeout),
        daemon=False,
    )
    return None


def _free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _check_gpus(processes: int) -> None:
    if torch.cuda.is_available() and processes > torch.cuda.device_count():
        raise ValueError(
            f"{processes} processes on a machine with {torch.cuda.device_count()} GPU(s): start at most one "
            "per GPU, or hide the GPUs (CUDA_VISIBLE_DEVICES='') to run on the CPU"
        )


def _worker(
    local_rank: int, first_rank: int, environment: dict, main_func: Callable, args: tuple, timeout: timedelta
) -> None:
    environment = {**environment, "RANK": first_rank + local_rank, "LOCAL_RANK": local_rank}
    os.environ.update({name: str(value) for name, value in environment.items()})
    if "OMP_NUM_THREADS" not in os.environ:
        # As many threads as cores in every process would have them wait for each other most of the time.
        torch.set_num_threads(max(torch.get_num_threads() // environment["LOCAL_WORLD_SIZE"], 1))
    join_torchrun(main_func, args, timeout)

"""Communicate between the processes of a training job. All functions also work in a job of one process."""

import functools
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

_LOCAL_PROCESS_GROUP: dist.ProcessGroup | None = None


def _initialized() -> bool:
    return dist.is_available() and dist.is_initialized()


def get_world_size() -> int:
    """Return the number of processes of the job, 1 outside a distributed job."""
    return dist.get_world_size() if _initialized() else 1


def get_rank() -> int:
    """Return the index of this process in the job, 0 outside a distributed job."""
    return dist.get_rank() if _initialized() else 0


@functools.cache
def create_local_process_group(num_workers_per_machine: int) -> None:
    """Group the processes machine by machine. All processes call it, once, after ``init_process_group``.

    Ranks must be contiguous on each machine, as :func:`adet_ext.d2.engine.launch` and torchrun
    number them.
    """
    global _LOCAL_PROCESS_GROUP
    world = get_world_size()
    if world % num_workers_per_machine:
        raise ValueError(
            f"{world} processes cannot be split into machines of {num_workers_per_machine}; "
            "start the same number of processes on every machine"
        )
    for first in range(0, world, num_workers_per_machine):
        ranks = list(range(first, first + num_workers_per_machine))
        group = dist.new_group(ranks)  # every process must take part in making every group
        if get_rank() in ranks:
            _LOCAL_PROCESS_GROUP = group


def get_local_process_group() -> dist.ProcessGroup:
    """Return the group of the processes on this machine."""
    if _LOCAL_PROCESS_GROUP is None:
        raise RuntimeError(
            "no per-machine process group: start the job with launch() or torchrun, or call "
            "comm.create_local_process_group(processes_per_machine) after init_process_group()"
        )
    return _LOCAL_PROCESS_GROUP


def get_local_rank() -> int:
    """Return the index of this process on its machine."""
    return dist.get_rank(group=get_local_process_group()) if _initialized() else 0


def get_local_size() -> int:
    """Return the number of processes on this machine."""
    return dist.get_world_size(group=get_local_process_group()) if _initialized() else 1


def is_main_process() -> bool:
    """Whether this process writes the files and the log of the job."""
    return get_rank() == 0


def synchronize() -> None:
    """Wait until every process has called this."""
    if get_world_size() == 1:
        return
    if dist.get_backend() == dist.Backend.NCCL:
        dist.barrier(device_ids=[torch.cuda.current_device()])
    else:
        dist.barrier()


@functools.cache
def _get_global_gloo_group() -> dist.ProcessGroup:
    # Pickled objects are sent by gloo, because NCCL would put them into GPU memory.
    if dist.get_backend() == dist.Backend.NCCL:
        return dist.new_group(backend="gloo")
    return dist.group.WORLD


def all_gather(data: Any, group: dist.ProcessGroup | None = None) -> list[Any]:
    """Return the objects of all processes by rank, in every process. They must be picklable."""
    if get_world_size() == 1:
        return [data]
    group = group or _get_global_gloo_group()
    gathered = [None] * dist.get_world_size(group)
    dist.all_gather_object(gathered, data, group=group)
    return gathered


def gather(data: Any, dst: int = 0, group: dist.ProcessGroup | None = None) -> list[Any]:
    """Return the objects of all processes by rank in process ``dst``, and an empty list in the others."""
    if get_world_size() == 1:
        return [data]
    group = group or _get_global_gloo_group()
    gathered = [None] * dist.get_world_size(group) if dist.get_rank(group) == dst else None
    dist.gather_object(data, gathered, dst=dst, group=group)
    return gathered or []


def shared_random_seed() -> int:
    """Return a random number that is the same in all processes. NumPy draws it in the first process.

    Every process must call it, because it communicates.
    """
    return all_gather(np.random.randint(2**31))[0]


def reduce_dict(input_dict: dict[str, torch.Tensor], average: bool = True) -> dict[str, torch.Tensor]:
    """Sum or average scalar tensors key by key over the processes; the result is valid only in process 0."""
    if get_world_size() == 1:
        return input_dict
    with torch.no_grad():
        names = sorted(input_dict)  # other processes may have filled their dictionaries in another order
        values = torch.stack([input_dict[name] for name in names])
        dist.reduce(values, dst=0)
        if average and get_rank() == 0:
            values /= get_world_size()
    return dict(zip(names, values, strict=True))

"""Make small tables of numbers on a device and keep them. A copy from the host would make the host wait."""

import functools
from collections.abc import Iterable, Sequence

import torch
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

__all__ = ["can_keep", "number_table", "stream_of"]


def can_keep(numbers: Iterable[float], device: torch.device) -> bool:
    """Return whether a tensor of these numbers made now may be kept: not while a program is traced or captured."""
    return not (
        torch.compiler.is_compiling()
        or is_in_torch_dispatch_mode()  # fake tensors among others
        or any(type(number) not in (int, float) for number in numbers)  # symbols
        or (device.type == "cuda" and torch.cuda.is_current_stream_capturing())
    )


def stream_of(device: torch.device) -> int:
    """Return the current stream of a GPU. Tensors of one stream may not be ready for another."""
    return torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0


def number_table(
    rows: Sequence[Sequence[float]], device: torch.device, dtype: torch.dtype = torch.int64
) -> torch.Tensor:
    """Return the rows as a tensor (rows, columns), without a copy from the host on other devices than the CPU.

    The last tables are kept; do not change them in place. Making one launches a kernel for each number.
    """
    rows = tuple(map(tuple, rows))
    if not can_keep((number for row in rows for number in row), device):
        return _make(rows, device, dtype)
    return _kept(rows, device, dtype, stream_of(device))


@functools.lru_cache(maxsize=128)
def _kept(rows: tuple[tuple, ...], device: torch.device, dtype: torch.dtype, stream: int) -> torch.Tensor:
    with torch.inference_mode(False):  # training may not use tensors of inference mode
        return _make(rows, device, dtype)


def _make(rows: tuple[tuple, ...], device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    if device.type == "cpu":
        return torch.tensor(rows, device=device, dtype=dtype)
    return _filled(rows, device, dtype)


def _filled(rows: Sequence[Sequence[float]], device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    numbers = [torch.full((1,), number, device=device, dtype=dtype) for row in rows for number in row]
    return torch.cat(numbers).reshape(len(rows), -1)

"""What the CUDA kernels read and write, counted by the emulator: see counts.cpp."""

import ctypes
import functools
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from .compiled import narrowed, short_name
from .emulation import Emulator

__all__ = ["Counted", "Counter", "Requests"]

SECTOR = 32


@dataclass
class Requests:
    """Requests of warps to global memory: reads, writes or atomics of a kernel.

    Attributes:
        requests, lanes: how many, and how many lanes took part in them.
        bytes: that the lanes asked for; ``widest``, those of accesses of 16 bytes a lane.
        sectors: of 32 bytes, summed over the requests; ``least``, as many as the bytes need in a row.
        of_blocks, of_launches: sectors, each once in a block and once in a launch.
    """

    requests: int
    lanes: int
    bytes: int
    widest: int
    sectors: int
    least: int
    of_blocks: int
    of_launches: int


@dataclass
class Counted:
    """A kernel in one call of an operator.

    Attributes:
        name: with its types, as :func:`compiled.short_name` has it.
        blocks, most_blocks: of all its launches, and of the largest.
        threads, dynamic: of a block, and its dynamic shared memory in bytes.
        barriers: of all blocks.
        passes: over the banks of shared memory; ``least_passes`` without conflicts.
        reads, writes, atomics: in global memory.
    """

    name: str
    launches: int
    blocks: int
    most_blocks: int
    threads: int
    dynamic: int
    barriers: int
    shared_requests: int
    passes: int
    least_passes: int
    reads: Requests
    writes: Requests
    atomics: Requests

    def kinds(self) -> Iterator[Requests]:
        """Iterate over reads, writes and atomics."""
        return iter((self.reads, self.writes, self.atomics))

    @property
    def lanes(self) -> float:
        """The mean share of a warp's lanes that take part in a request to global memory."""
        requests = sum(kind.requests for kind in self.kinds())
        return sum(kind.lanes for kind in self.kinds()) / (32 * requests) if requests else 1.0


class Counter(Emulator):
    """The emulator's library that counts."""

    def __init__(self):
        super().__init__("counted", narrowed())
        self._functions.emulator_counts.restype = ctypes.c_char_p
        self._functions.emulator_touched.restype = ctypes.c_int64
        self._functions.emulator_touched.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]

    def touched(self, tensor: torch.Tensor) -> int:
        """Return how many bytes of a tensor kernels read and wrote since :meth:`take`, in sectors of 32."""
        storage = tensor.untyped_storage()
        place = storage.data_ptr(), storage.nbytes()
        return SECTOR * sum(self._functions.emulator_touched(*place, kind) for kind in (0, 1))

    def take(self) -> list[Counted]:
        """Return the kernels that ran since the last call."""
        found = []
        for line in self._functions.emulator_counts().decode().splitlines():
            _, code, *rest = line.split()
            numbers = [int(word) for word in rest]
            parts = [Requests(*numbers[9 + 8 * i : 17 + 8 * i]) for i in range(3)]
            found.append(Counted(self._names[int(code)], *numbers[:9], *parts))
        return found

    @functools.cached_property
    def _names(self) -> dict[int, str]:
        """The kernels by their place in the library."""
        words = ["nm", "--demangle", str(self.path)]
        lines = subprocess.run(words, capture_output=True, text=True, check=True).stdout.splitlines()
        parts = [line.split(" ", 2) for line in lines if not line.startswith(" ")]
        return {int(at, 16): short_name(name) for at, kind, name in parts if kind in "tTwWuV"}

"""A model of GPUs: how many blocks a multiprocessor holds, and the least time that traffic and arithmetic take.

Rates are those of NVIDIA's data sheets (SXM, dense); the cache's rate and the share of the tensor cores' rate that the
kernels' instructions (wmma) reach on Hopper are assumptions, from published microbenchmarks.
"""

from dataclasses import dataclass

from .compiled import Compiled
from .counted import SECTOR, Counted

__all__ = ["GPUS", "Gpu", "occupancy", "times"]

_WARPS, _BLOCKS, _REGISTERS = 64, 32, 65536  # of a multiprocessor
_SHARED = {"sm_80": 164 * 1024, "sm_90": 228 * 1024}
_WMMA = 0.62  # of the rate of wgmma, on Hopper
_TRIP = 450  # clocks from one barrier to the next: reading from the cache, a barrier, a few dependent instructions


@dataclass(frozen=True)
class Gpu:
    """Rates of a GPU: multiprocessors, GHz, TB/s of memory and of the L2 cache, TFLOP/s by kind of arithmetic."""

    name: str
    processors: int
    clock: float
    memory: float
    cache: float
    flops: dict[str, float]


_FLOPS = {"float32": 67.0, "tf32": 494.0 * _WMMA, "half": 989.0 * _WMMA}
GPUS = (Gpu("H100", 132, 1.83, 3.35, 5.5, _FLOPS), Gpu("H200", 132, 1.83, 4.8, 5.5, _FLOPS))


def occupancy(kernel: Compiled | None, threads: int, dynamic: int, architecture: str) -> tuple[int, float]:
    """Return the blocks that a multiprocessor holds, and the share of its warps that they are.

    Without ``kernel``, by the threads and the dynamic shared memory alone.
    """
    warps = -(-threads // 32)
    of_a_warp = -(-kernel.registers * 32 // 256) * 256 if kernel else 256
    by_registers = _REGISTERS // 4 // of_a_warp * 4 // warps
    shared = (kernel.shared if kernel else 0) + dynamic + 1024  # the system's own
    blocks = min(_BLOCKS, _WARPS // warps, by_registers, _SHARED[architecture] // shared)
    return blocks, blocks * warps / _WARPS


def times(
    kernel: Counted, made: Compiled | None, gpu: Gpu, flops: float, arithmetic: str, scale: float = 1.0
) -> dict[str, float]:
    """Return the microseconds that a kernel takes at least by each limit, with ``scale`` times as many blocks.

    Memory: each sector once a launch. L2: each sector once a block. L1: four sectors, or one request, or one pass over
    the banks of shared memory, a clock and multiprocessor. Chain: the barriers of a block, one after the other.
    """
    moved = kernel.reads.of_launches + kernel.writes.of_launches + 2 * kernel.atomics.of_launches
    cached = kernel.reads.of_blocks + kernel.writes.of_blocks + kernel.atomics.sectors
    clocks = sum(max(kind.requests, kind.sectors / 4) for kind in kernel.kinds()) + kernel.passes
    busy = min(gpu.processors, kernel.most_blocks * scale)
    held = occupancy(made, kernel.threads, kernel.dynamic, "sm_90")[0]
    rounds = -(-kernel.blocks * scale // (gpu.processors * max(held, 1)))
    steps = 1 + kernel.barriers / kernel.blocks
    return {
        "memory": scale * moved * SECTOR / gpu.memory * 1e-6,
        "L2": scale * cached * SECTOR / gpu.cache * 1e-6,
        "L1": scale * clocks / busy / gpu.clock * 1e-3,
        "math": scale * flops / gpu.flops[arithmetic] * 1e-6,
        "chain": steps * rounds * _TRIP / gpu.clock * 1e-3,
    }

"""Timing of one case: ours and the composition in turn, round by round, after warming up."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch

from ..paired import ratios, spread
from .case import Case, Contest
from .peaks import cuda_peaks

__all__ = ["Row", "agreement", "copy_bandwidth", "run_case"]

# A sample lasts this long at least: shorter ones are repeated, and their time divided.
SAMPLE_SECONDS = 0.01
# Written before every timed call on CUDA: several times any GPU's cache, so that inputs come from memory.
FLUSH_BYTES = 256 * 2**20
# How far apart results may lie, relative to the largest magnitude among them.
TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-3, torch.float16: 2e-2, torch.bfloat16: 1e-1}


@dataclass
class Row:
    """A line of the table. Times in milliseconds, memory in bytes beyond the inputs; None where not known."""

    operator: str
    shape: str
    dtype: str
    device: str
    baseline: str
    ours: float | None = None
    theirs: float | None = None
    ratio: dict[str, float] | None = None
    target: float | None = None
    bandwidth: float | None = None
    copy_share: float | None = None
    our_peak: int | None = None
    their_peak: int | None = None
    agrees: bool | None = None
    error: str | None = None

    @property
    def holds(self) -> bool | None:
        """Whether the target is reached; None where there is none, or no ratio."""
        return None if self.target is None or self.ratio is None else self.ratio["median"] >= self.target


def run_case(case: Case, device: torch.device, dtype: torch.dtype, rounds: int, copy: float, tick: Callable) -> Row:
    """Time a case and compare the results; ``copy`` is the device's copy bandwidth in bytes a second.

    ``tick`` is called after each of ``rounds`` rounds. What a side raises, if it is an error of its computation,
    becomes the row's ``error``.
    """
    row = Row(case.operator, case.shape, str(dtype).removeprefix("torch."), device.type, case.baseline)
    row.target = case.target.get(device.type)
    try:
        contest = case.make(device, dtype)
        if contest.same:
            row.agrees = agreement(contest.ours(), contest.theirs(), dtype)
        ours, theirs = _time(contest, device, rounds, tick)
        if device.type == "cuda":
            row.our_peak, row.their_peak = cuda_peaks(contest, device)
    except (RuntimeError, TypeError, ValueError) as error:  # out of memory, a kernel that is missing
        row.error = f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"
        return row
    row.ours, row.theirs = spread(ours).median * 1e3, spread(theirs).median * 1e3
    row.ratio = asdict(ratios(theirs, ours))
    row.bandwidth = contest.bytes / spread(ours).median
    row.copy_share = row.bandwidth / copy
    return row


def _time(contest: Contest, device: torch.device, rounds: int, tick: Callable) -> tuple[list[float], list[float]]:
    """Seconds a call in each round, of ours and of theirs. They take turns in going first."""
    sides = [contest.ours, contest.theirs]
    measure = _Cuda(device) if device.type == "cuda" else _Cpu()
    repeats = []
    for side in sides:
        measure(side, 2)  # caches, code generation, clocks
        repeats.append(max(1, int(SAMPLE_SECONDS / max(measure(side, 1), 1e-7))))
    times: tuple[list[float], list[float]] = ([], [])
    for i in range(rounds):
        for k in (0, 1) if i % 2 == 0 else (1, 0):
            times[k].append(measure(sides[k], repeats[k]))
        tick()
    return times


class _Cpu:
    """Seconds a call, by the clock."""

    def __call__(self, side: Callable, repeats: int) -> float:
        start = time.perf_counter()
        for _ in range(repeats):
            side()
        return (time.perf_counter() - start) / repeats


class _Cuda:
    """Seconds a call between two events on the stream; the cache is overwritten before each.

    The writing also keeps the GPU busy until the call's launches are queued, so that Python's time does not count.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.flush = torch.empty(FLUSH_BYTES, dtype=torch.int8, device=device)

    def __call__(self, side: Callable, repeats: int) -> float:
        events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(repeats)]
        for start, end in events:
            self.flush.zero_()
            start.record()
            side()
            end.record()
        torch.cuda.synchronize(self.device)
        return sum(start.elapsed_time(end) for start, end in events) / repeats / 1e3


def agreement(ours: object, theirs: object, dtype: torch.dtype) -> bool | None:
    """Whether two results are the same but for rounding; None where they are of different shapes."""
    pairs = list(zip(_tensors(ours), _tensors(theirs)))
    if len(_tensors(ours)) != len(_tensors(theirs)) or any(a.shape != b.shape for a, b in pairs):
        return None
    for a, b in pairs:
        a, b = a.double(), b.double()
        if a.numel() and not (a - b).abs().max() <= TOLERANCE[dtype] * b.abs().max().clamp(min=1e-6):
            return False
    return True


def _tensors(result: object) -> list[torch.Tensor]:
    if isinstance(result, torch.Tensor):
        return [result.detach()]
    return [tensor.detach() for tensor in result if tensor is not None]


def copy_bandwidth(device: torch.device, size: int = 256 * 2**20, rounds: int = 7) -> float:
    """Bytes a second, read and written, of a large tensor's copy: what memory gives at best. ``size`` in bytes."""
    source, target = (torch.ones(size // 4, device=device) for _ in range(2))
    measure = _Cuda(device) if device.type == "cuda" else _Cpu()
    measure(lambda: target.copy_(source), 2)
    return 2 * source.numel() * 4 / min(measure(lambda: target.copy_(source), 1) for _ in range(rounds))

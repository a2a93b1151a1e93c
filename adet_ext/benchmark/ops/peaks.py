"""Peak memory of a case's two sides: bytes above what the inputs take, results included.

On CUDA the allocator tells. On the CPU it is the high-water mark of the process' resident memory, which sees scratch
memory of all libraries as well. That asks the C library to give memory back at once, which makes it slow; hence a
process of its own, which runs this module. Linux only.
"""

import ctypes
import gc
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence

import torch

from .case import Case, Contest

__all__ = ["cpu_peaks", "cuda_peaks"]

_CLEAR_REFS, _STATUS = "/proc/self/clear_refs", "/proc/self/status"
_MMAP_THRESHOLD = -3  # of mallopt: pieces above this size are mapped, and unmapped when they are freed


def cuda_peaks(contest: Contest, device: torch.device) -> tuple[int, int]:
    """Of ours and of theirs, after the timing, so that what libraries allocate once is there already."""
    peaks = []
    for side in (contest.ours, contest.theirs):
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        side()
        torch.cuda.synchronize(device)
        peaks.append(torch.cuda.max_memory_allocated(device) - before)
    return peaks[0], peaks[1]


def cpu_peaks(
    wanted: Sequence[tuple[int, str]], threads: int, tick: Callable[[], None], source: str | None = None
) -> list[tuple[int, int] | None]:
    """Of ours and of theirs, for each (index among all cases, name of a type); None where it cannot be told.

    ``source`` names the function that returns the cases, as "module:function".
    """
    if not (os.path.exists(_CLEAR_REFS) and wanted):
        return [None] * len(wanted)
    request = {"wanted": list(wanted), "threads": threads, "source": source or "adet_ext.benchmark.ops:all_cases"}
    answers: list[tuple[int, int] | None] = []
    command = [sys.executable, "-W", "ignore", "-m", __name__]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        process.stdin.write(json.dumps(request))
        process.stdin.close()
        for line in process.stdout:
            if line.startswith("peaks "):
                answer = json.loads(line.removeprefix("peaks "))
                answers.append(None if answer is None else (answer[0], answer[1]))
                tick()
    return answers + [None] * (len(wanted) - len(answers))


def _resident(name: str) -> int:
    """VmRSS or VmHWM (its high-water mark) in bytes."""
    with open(_STATUS, encoding="ascii") as lines:
        for line in lines:
            if line.startswith(name + ":"):
                return int(line.split()[1]) * 1024
    raise RuntimeError(f"{_STATUS} has no {name}")


def _peak(side: Callable[[], object], library: ctypes.CDLL) -> int:
    for _ in range(2):
        side()  # allocates, once and for all, what libraries keep
    gc.collect()
    library.malloc_trim(0)
    with open(_CLEAR_REFS, "w", encoding="ascii") as file:
        file.write("5")  # sets the high-water mark to what is resident now
    before = _resident("VmRSS")
    side()
    return max(0, _resident("VmHWM") - before)


def _load(source: str) -> list[Case]:
    module, function = source.split(":")
    return getattr(__import__(module, fromlist=[function]), function)()


def main() -> None:
    """Answer one request: a line for each case."""
    request = json.load(sys.stdin)
    torch.set_num_threads(request["threads"])
    library = ctypes.CDLL(None)
    library.mallopt(_MMAP_THRESHOLD, 64 * 1024)
    cases = _load(request["source"])
    for index, dtype in request["wanted"]:
        try:
            contest = cases[index].make(torch.device("cpu"), getattr(torch, dtype))
            answer = [_peak(side, library) for side in (contest.ours, contest.theirs)]
        except (RuntimeError, TypeError, ValueError, OSError, AttributeError):  # the timing says what is wrong
            answer = None
        print("peaks", json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()

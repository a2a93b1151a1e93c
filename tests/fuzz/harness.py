"""Run many samples in child processes with a memory cap, so that crashes, hangs and floods are counted."""

import collections
import contextlib
import logging
import os
import pickle
import resource
import select
import signal
import struct
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

__all__ = ["main", "quiet_folder", "run_samples"]


@contextlib.contextmanager
def quiet_folder() -> Iterator[str]:
    """Give a temporary folder, with logging and warnings off: thousands of broken files would flood the terminal."""
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield folder
    finally:
        logging.disable(level)


def main(run: Callable[..., tuple[collections.Counter, list]], default: int) -> int:
    """Call ``run`` with the number of samples and the seed of the command line; print counts and the first faults."""
    counts, faults = run(*([int(a) for a in sys.argv[1:]] or [default]))
    for kind, count in sorted(counts.items()):
        print(f"{count:6d}  {kind}")
    for sample, kind, details in faults[:30]:
        print(f"\nseed {sample}: {kind}\n{details}".encode("utf-8", "backslashreplace").decode())
    return 1 if faults else 0


def run_samples(
    check: Callable[[Any], tuple[str, str]],
    samples: Sequence[Any],
    *,
    batch: int = 200,
    seconds: float = 20,
    megabytes: int = 3000,
) -> tuple[collections.Counter, list[tuple[Any, str, str]]]:
    """Check all samples and count the classes that ``check`` gives them.

    Args:
        check: returns (class, details) of a sample. An exception is a fault.
        batch: samples for each child process.
        seconds: a sample that takes longer is a fault.
        megabytes: of address space that a child may take beyond what it starts with.

    Returns:
        How often each class came, and (sample, class, details) of the faults.
    """
    counts: collections.Counter = collections.Counter()
    faults = []
    start = 0
    while start < len(samples):
        end = min(start + batch, len(samples))
        for sample, (kind, details) in _batch(check, samples[start:end], seconds, megabytes):
            counts[kind] += 1
            if kind.startswith("FAULT"):
                faults.append((sample, kind, details))
            start += 1
    return counts, faults


def _batch(check: Callable, samples: Sequence[Any], seconds: float, megabytes: int):
    """Yield (sample, outcome) of the samples up to the first that ends the child process, and of that one."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        _work(check, samples, writer, megabytes)
    os.close(writer)
    try:
        for sample in samples:
            outcome = _receive(reader, seconds)
            if outcome == "timeout":
                yield sample, ("FAULT: hang", f"longer than {seconds} s")
                return
            if outcome is None:
                _, status = os.waitpid(child, 0)
                child = 0
                yield sample, ("FAULT: crash", f"the process ended with status {status}")
                return
            yield sample, outcome
    finally:
        os.close(reader)
        if child:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


def _work(check: Callable, samples: Sequence[Any], writer: int, megabytes: int) -> None:
    with open("/proc/self/statm") as file:
        pages = int(file.read().split()[0])
    limit = pages * resource.getpagesize() + megabytes * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        for sample in samples:
            try:
                outcome = check(sample)
            except MemoryError:
                outcome = "FAULT: memory", traceback.format_exc()
            except BaseException as error:
                outcome = f"FAULT: {type(error).__name__}", traceback.format_exc()
            data = pickle.dumps((outcome[0], outcome[1][-20000:]))
            os.write(writer, struct.pack("<I", len(data)) + data)
    finally:
        os._exit(0)


def _receive(reader: int, seconds: float) -> Any:
    """Return the next outcome, None where the process has ended, "timeout" where it takes too long."""
    data = b""
    while len(data) < 4 or len(data) < 4 + struct.unpack("<I", data[:4])[0]:
        if not select.select([reader], [], [], seconds)[0]:
            return "timeout"
        wanted = 4 - len(data) if len(data) < 4 else 4 + struct.unpack("<I", data[:4])[0] - len(data)
        part = os.read(reader, wanted)
        if not part:
            return None
        data += part
    return pickle.loads(data[4:])

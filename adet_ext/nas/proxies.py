"""What the projects' proxy tasks have in common."""

import contextlib
import sys
import time
from collections.abc import Iterator, MutableMapping

__all__ = ["print_progress", "timed"]


def print_progress(done: int, total: int) -> None:
    """Say on the standard error of how many images the features are computed: one line, which is written over."""
    if done == total or sys.stderr.isatty():
        end = "" if done < total else "\n"
        print(f"\rfeatures of {done} of {total} images", end=end, file=sys.stderr, flush=True)


@contextlib.contextmanager
def timed(seconds: MutableMapping[str, float], name: str) -> Iterator[None]:
    """Add the time that the context takes to ``seconds[name]``."""
    start = time.perf_counter()
    yield
    seconds[name] += time.perf_counter() - start

"""What the projects' proxy tasks have in common: kept features, stopping half-way, progress and times."""

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from typing import Any

from torch import Tensor, nn

from .evaluation import Outcome, Task
from .feature_cache import FeatureCache
from .fingerprint import fingerprint

__all__ = ["keep_features", "print_progress", "timed", "train_and_score"]


def keep_features(
    place: str,
    limit_gb: float,
    compute: Callable[[Sequence[int]], dict[str, Tensor]],
    files: Sequence[str],
    module: nn.Module,
    settings: Mapping[str, Any],
    progress: Callable[[int, int], None],
    part: str = "",
) -> FeatureCache:
    """Return the features of images in half precision, computed now or by an earlier search with the same ones.

    Args:
        place: "memory", or a folder.
        compute: the features of some of the images, by their numbers.
        files: of the images. Those that are generated, such as ``shapes://``, are known by their names alone.
        module, settings: what the features depend on besides.
        part: a folder in ``place``, for a search that keeps several sets.
    """
    generated = [file for file in files if "://" in file]
    return FeatureCache.build(
        None if place == "memory" else os.path.join(place, part) if part else place,
        fingerprint(module, [file for file in files if "://" not in file], {**settings, "generated": generated}),
        range(len(files)),
        compute,
        int(limit_gb * 2**30),
        dtype="float16",
        batch_size=8,
        other="beside",
        progress=progress,
    )


def train_and_score(
    task: Task,
    training: Iterable[Any],
    half: int,
    score: Callable[[Any], tuple[float, Mapping[str, float]]],
    seconds: Mapping[str, float],
) -> Outcome:
    """Train an architecture and score it; stop half-way if the score is not above the task's threshold.

    Args:
        training: does one step, or epoch, with each item that it yields.
        half: after how many items the threshold counts.
        score: the reward of what the training has yielded last, and its parts.
        seconds: is filled while this runs, and goes into the outcome.
    """
    scores: list[float] = []
    state = None
    for number, state in enumerate(training, 1):
        if number == half and task.thresholds:
            scores.append(score(state)[0])
            if scores[-1] <= task.thresholds[0]:
                return Outcome(scores[-1], {}, tuple(scores), stopped=True, seconds=seconds)
    reward, metrics = score(state)
    return Outcome(reward, metrics, tuple(scores), seconds=seconds)


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

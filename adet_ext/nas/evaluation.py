"""One evaluation: what is asked, what comes back, and what it cost.

A project names an importable factory, ``"package.module:function"``. It takes a dict of settings, ready for JSON, and
returns ``evaluate(task: Task) -> Outcome``. The factory is called once per process, ``evaluate`` once per architecture.
"""

import contextlib
import dataclasses
import gc
import hashlib
import importlib
import math
import os
import random
import sys
import time
from collections.abc import Callable, Iterator, Mapping

from ..errors import UserError, one_line

__all__ = [
    "Evaluate",
    "Outcome",
    "Task",
    "limit_threads",
    "limited_threads",
    "load_factory",
    "make_evaluate",
    "run_one",
    "task_seed",
]


@dataclasses.dataclass(frozen=True)
class Task:
    """One architecture to evaluate.

    Attributes:
        index: its number in the search, from 0.
        tokens: one whole number per decision.
        seed: of all that is random in the evaluation; the same for an index of a search wherever and whenever it runs.
        thresholds: one per early-stopping point; stop where the score is not above it. Empty: never stop.
    """

    index: int
    tokens: tuple[int, ...]
    seed: int
    thresholds: tuple[float, ...] = ()


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What an evaluation found.

    Attributes:
        reward: a finite number, higher is better.
        metrics: further numbers for the journal.
        scores: the scores at the early-stopping points that were reached.
        stopped: whether it was stopped at the last of them.
        seconds: where the time went, by the name of a part of the work; goes to the journal's costs.
    """

    reward: float
    metrics: Mapping[str, float] = dataclasses.field(default_factory=dict)
    scores: tuple[float, ...] = ()
    stopped: bool = False
    seconds: Mapping[str, float] = dataclasses.field(default_factory=dict)


Evaluate = Callable[[Task], Outcome]


_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


def task_seed(seed: int, index: int) -> int:
    """Return the seed of an architecture, from 0 to 2**31 - 1, from the search's seed and its index alone."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{index}".encode()).digest()[:4], "big") >> 1


def load_factory(name: str) -> Callable[[dict], Evaluate]:
    """Import ``"package.module:function"``.

    Raises:
        UserError: the name has another form, or there is no such module or function.
    """
    module, _, function = name.partition(":")
    if not module or not function:
        raise UserError(f"An evaluation must be named as package.module:function; got {name!r}.")
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if not (error.name and f"{module}.".startswith(f"{error.name}.")):  # one that the module needs is missing
            raise
        raise UserError(f"{name}: there is no module {error.name}. Put its folder on PYTHONPATH.") from error
    factory = getattr(found, function, None)
    if not callable(factory):
        raise UserError(f"{name}: module {module} must have a function {function}; it has none.")
    return factory


def make_evaluate(factory: str, settings: dict, threads: int) -> Evaluate:
    """Make a process ready to evaluate.

    Args:
        threads: of torch; sums of floats depend on how many there are.
    """
    limit_threads(threads)
    evaluate = load_factory(factory)(settings)
    limit_threads(threads)  # once more where the factory was the first to import torch
    return evaluate


def limit_threads(threads: int) -> None:
    """Let torch, here and in the processes started from here, use so many threads."""
    os.environ.update(dict.fromkeys(_THREADS, str(threads)))
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)


@contextlib.contextmanager
def limited_threads(threads: int) -> Iterator[None]:
    """A context with :func:`limit_threads`; afterwards all is as it was before."""
    before = {name: os.environ.get(name) for name in _THREADS}
    torch = sys.modules.get("torch")
    count = torch.get_num_threads() if torch is not None else None
    limit_threads(threads)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
        if count is not None:
            torch.set_num_threads(count)


def run_one(evaluate: Evaluate, task: Task) -> dict:
    """Evaluate one architecture, with the global random generators seeded, and say what it cost.

    Returns:
        Ready for JSON: ``status`` "done" or "failed", ``reward``, ``error``, ``metrics``, ``scores``, ``stopped`` and
        ``cost``: ``seconds``, ``cpu_seconds``, ``phases`` (the outcome's seconds, if any), ``process``,
        ``peak_memory_mb`` (of this evaluation on Linux, of the process so far elsewhere), ``peak_gpu_memory_mb`` where
        a GPU is used, ``finished`` (unix time).

    Raises:
        UserError: the evaluation says that the user has to put something right, or returns no Outcome.
    """
    _seed(task.seed)
    gpu = _gpu()
    _reset_peaks(gpu)
    start, cpu_start, phases = time.perf_counter(), time.process_time(), {}
    try:
        outcome = evaluate(task)
        result = _as_json(outcome)
        phases = {str(name): round(float(value), 4) for name, value in outcome.seconds.items()}
    except UserError:
        raise
    except Exception as error:
        result = _failed(f"{type(error).__name__}: {one_line(error)}"[:1000])
        error.__traceback__ = None  # its frames keep the tensors of a failed evaluation
    if result["status"] == "failed" and (gpu is not None or "memory" in result["error"].lower()):
        gc.collect()  # not after every failure: it takes half a second where torch is loaded
        if gpu is not None:
            gpu.empty_cache()
    result["cost"] = {
        "seconds": round(time.perf_counter() - start, 4),
        "cpu_seconds": round(time.process_time() - cpu_start, 4),
        "process": os.getpid(),
        "peak_memory_mb": _peak_memory(),
        **({"phases": phases} if phases else {}),
        **({"peak_gpu_memory_mb": round(gpu.max_memory_allocated() / 2**20, 1)} if gpu is not None else {}),
        "finished": round(time.time(), 3),
    }
    return result


def _as_json(outcome: Outcome) -> dict:
    if not isinstance(outcome, Outcome):
        raise UserError(f"An evaluation must return an Outcome; got {type(outcome).__name__}.")
    reward, scores = float(outcome.reward), [float(score) for score in outcome.scores]
    for name, value in [("reward", reward), *((f"score {i}", score) for i, score in enumerate(scores))]:
        if not math.isfinite(value):
            return _failed(f"{name} is {value}")
    metrics = {str(name): float(value) for name, value in outcome.metrics.items()}
    return {
        "reward": reward,
        "status": "done",
        "error": "",
        # JSON has no infinity
        "metrics": {name: value if math.isfinite(value) else None for name, value in metrics.items()},
        "scores": scores,
        "stopped": bool(outcome.stopped),
    }


def _failed(error: str) -> dict:
    return {"reward": None, "status": "failed", "error": error, "metrics": {}, "scores": [], "stopped": False}


def _seed(seed: int) -> None:
    random.seed(seed)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(seed)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(seed)


def _gpu():
    """Return torch.cuda where this process uses a GPU."""
    torch = sys.modules.get("torch")
    return torch.cuda if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized() else None


def _reset_peaks(gpu) -> None:
    if gpu is not None:
        gpu.reset_peak_memory_stats()
    with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w") as file:
        file.write("5")


def _peak_memory() -> float | None:
    """Return the peak of the resident memory, MiB; None where the system does not tell."""
    with contextlib.suppress(OSError), open("/proc/self/status", encoding="utf-8") as lines:
        for line in lines:
            if line.startswith("VmHWM:"):
                return round(int(line.split()[1]) / 1024, 1)
    with contextlib.suppress(ImportError):
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return round(peak / 2**20 if sys.platform == "darwin" else peak / 1024, 1)
    return None

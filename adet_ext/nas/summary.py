"""What a journal says, as numbers and as text; also of a search that is still running."""

import os

from ..errors import UserError
from ..utils.durations import duration
from ..utils.lock import holder
from ..utils.table import text_table
from .journal import STATUSES, Recorded, read_journal
from .progress import best_of
from .space import Space
from .statistics import describe

__all__ = ["JOURNAL", "best_entries", "find_journal", "render", "summarize"]

JOURNAL = "journal.jsonl"


def find_journal(path: str) -> str:
    """Return the journal's file: ``path``, or the one in the folder ``path``."""
    found = os.path.join(path, JOURNAL) if os.path.isdir(path) else path
    if not os.path.isfile(found):
        raise UserError(f"{path}: must be the journal of a search, or its folder; there is none. Name another one.")
    return found


def best_entries(entries: list[dict], count: int) -> list[dict]:
    """Return the ``count`` evaluated architectures with the highest rewards, best first; of equals the earlier."""
    done = [entry for entry in entries if entry["status"] == "done"]
    return sorted(done, key=lambda entry: -entry["reward"])[:count]


def summarize(path: str) -> dict:
    """Return, ready for JSON, what the journal at ``path`` says.

    Returns:
        ``journal``, ``space``, ``sampler``, ``seed``; ``running``: the process, or ""; ``counts`` by status;
        ``stopped``, early; ``best``: its line, or None; ``mean_first``, ``mean_last``: mean reward of the first and
        the last ``window`` lines with a reward, 50 or half of all; ``seconds``: ``evaluation`` (of all workers
        together), ``ask``, ``tell``, and ``clock``, without the time between two runs; ``per_hour``: evaluations by the
        clock; ``sampler_share``: of the sampler in evaluation and sampler together.

    Raises:
        UserError: see :func:`~adet_ext.nas.journal.read_journal`.
    """
    header, entries = read_journal(path)
    found = describe(header, entries, best=0)
    cost = found["cost"]
    spent = {key: sum(entry.get("cost", {}).get(f"{key}_seconds", 0) for entry in entries) for key in ("ask", "tell")}
    evaluation = sum(entry.get("cost", {}).get("seconds", 0) for entry in entries)
    sampler = spent["ask"] + spent["tell"]
    window = found["first"]["count"]
    return {
        "journal": path,
        "space": found["space"],
        "sampler": found["sampler"],
        "seed": found["seed"],
        "running": holder(path + ".lock"),
        "counts": {status: found[status] for status in STATUSES},
        "stopped": sum(bool(entry.get("stopped")) for entry in entries if entry["status"] == "done"),
        "best": best_of(entries),
        "window": window,
        "mean_first": found["first"]["mean"] if window else None,
        "mean_last": found["last"]["mean"] if window else None,
        "seconds": {"evaluation": evaluation, **spent, "clock": 3600 * cost["clock_hours"]},
        "per_hour": cost["per_hour"] if cost["clock_hours"] else None,
        "sampler_share": sampler / (sampler + evaluation) if evaluation else None,
    }


def render(path: str, best: int = 5) -> str:
    """Return the summary of a journal and its ``best`` architectures as text."""
    found, recorded = summarize(path), read_journal(path)
    counts = ", ".join(f"{count} {status}" for status, count in found["counts"].items() if count) or "none yet"
    running = f"{found['running']} is searching" if found["running"] else "no search is running"
    lines = [
        f"{path}: {found['space']} by {found['sampler']}, seed {found['seed']}; {running}",
        f"architectures: {len(recorded.entries)} ({counts}); {found['stopped']} stopped early",
    ]
    if found["mean_first"] is not None:
        first, last = (f"{found['window']} {found[key]:.4g}" for key in ("mean_first", "mean_last"))
        lines.append(f"mean reward: first {first}, last {last}")
    if found["per_hour"] is not None:
        seconds = found["seconds"]
        lines.append(
            f"time: {found['per_hour']:.0f} evaluations an hour over {duration(seconds['clock'])}; evaluation "
            f"{duration(seconds['evaluation'])}, sampler {duration(seconds['ask'] + seconds['tell'])} "
            f"({100 * found['sampler_share']:.1f} %)"
        )
    failures = [entry for entry in recorded.entries if entry["status"] == "failed"]
    lines += [f"failed: architecture {entry['index']}: {entry.get('error')}" for entry in failures[-3:]]
    return "\n".join([*lines, *_best(recorded, best)])


def _best(recorded: Recorded, count: int) -> list[str]:
    entries = best_entries(recorded.entries, count)
    if not entries:
        return []
    space = Space.from_json(recorded.header["space"])
    rows = [["index", "reward", "metrics"]]
    for entry in entries:
        metrics = ", ".join(
            f"{name} {value:.4g}" for name, value in entry.get("metrics", {}).items() if value is not None
        )
        rows.append([str(entry["index"]), f"{entry['reward']:.6g}", metrics])
    best = entries[0]
    return ["", text_table(rows), "", f"architecture {best['index']}: {space.text(best['tokens'])}"]

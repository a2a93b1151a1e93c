"""What a journal tells: rewards over time, shares of choices over time, the best architectures, where the time went."""

import collections
import math
from collections.abc import Sequence
from typing import Any

from .space import Space

__all__ = ["PERIOD", "cost", "describe", "moving_mean", "reward_curve", "shares"]

# Architectures that one point of a curve stands for; thesis Figure 7.5 counts them in 50s too.
PERIOD = 50


def describe(header: dict, entries: Sequence[dict], *, best: int = 10, period: int = PERIOD) -> dict[str, Any]:
    """Return what a report shows of one search, ready for JSON.

    Args:
        header, entries: as :func:`adet_ext.nas.journal.read_journal` gives them.
        best: how many architectures, each once, by reward.
        period: architectures that a mean and a share are taken over.
    """
    space = Space.from_json(header["space"])
    counts = collections.Counter(entry["status"] for entry in entries)
    curve = reward_curve(entries)
    rewards = [reward for _, reward in curve]
    window = min(period, len(rewards) // 2)
    ranked = sorted((e for e in entries if e["status"] == "done"), key=lambda e: -e["reward"])
    return {
        "space": space.name,
        "sampler": sampler_name(header),
        "seed": header.get("seed"),
        "settings": header.get("settings", {}),
        "asked": len(entries),
        "done": counts["done"],
        "repeated": counts["repeated"],
        "rejected": counts["rejected"],
        "failed": counts["failed"],
        "stopped": sum(bool(entry.get("stopped")) for entry in entries),
        "first": _mean_and_spread(rewards[:window]),
        "last": _mean_and_spread(rewards[len(rewards) - window :]),
        "reward": curve,
        "best": [_architecture(space, entry) for entry in ranked[:best]],
        "shares": shares(space, entries, period),
        "cost": cost(entries),
    }


def sampler_name(header: dict) -> str:
    """Return the name of the sampler in a journal's header."""
    sampler = header.get("sampler")
    return str(sampler.get("name", sampler) if isinstance(sampler, dict) else sampler)


def reward_curve(entries: Sequence[dict]) -> list[tuple[int, float]]:
    """Return (index, reward) of all that have one. An architecture that is drawn again counts again."""
    return [
        (e["index"], e["reward"]) for e in entries if e["status"] in ("done", "repeated") and e["reward"] is not None
    ]


def moving_mean(curve: Sequence[tuple[int, float]], period: int = PERIOD) -> tuple[list[int], list[float]]:
    """Return indices, and the mean of the last ``period`` rewards at each, from the first full period on.

    A curve shorter than two periods is averaged over half its length, so that a search is seen from its beginning.
    """
    period = max(1, min(period, len(curve) // 2))
    total, xs, ys = 0.0, [], []
    for place, (index, reward) in enumerate(curve):
        total += reward - (curve[place - period][1] if place >= period else 0)
        if place >= period - 1:
            xs.append(index)
            ys.append(total / period)
    return xs, ys


def shares(space: Space, entries: Sequence[dict], period: int = PERIOD) -> dict[str, dict[str, list]]:
    """Return kind -> {"index": last index of each period, choice: its share of the kind's tokens in the period}.

    All drawn architectures count but the rejected ones: what the sampler prefers of what can be built. A last period
    that is less than half full is added to the one before.
    """
    drawn = [entry for entry in entries if entry["status"] != "rejected"]
    ends = list(range(period, len(drawn) + 1, period))
    if not ends or len(drawn) - ends[-1] >= period / 2:
        ends.append(len(drawn))
    ends[-1] = len(drawn)
    found: dict[str, dict[str, list]] = {}
    for decision in space.decisions:
        kind = found.setdefault(decision.kind, {"index": [drawn[end - 1]["index"] for end in ends] if drawn else []})
        for choice in decision.choices:
            kind.setdefault(choice, [])
    for start, end in zip([0, *ends], ends if drawn else []):
        counts = collections.Counter(
            (decision.kind, decision.choices[token])
            for entry in drawn[start:end]
            for decision, token in zip(space.decisions, entry["tokens"])
        )
        totals = collections.Counter()
        for (name, _), count in counts.items():
            totals[name] += count
        for name, kind in found.items():
            for choice in kind.keys() - {"index"}:
                kind[choice].append(counts[name, choice] / totals[name])
    return found


def cost(entries: Sequence[dict]) -> dict[str, Any]:
    """Return hours of evaluation, architectures an hour of the clock, seconds by phase, and the most memory of all.

    The clock runs from line to line; a gap of more than ten times the longest evaluation is a pause of the search.
    """
    entries = [{"cost": {}, **entry} for entry in entries]  # journals that were edited may lack it
    costs = [entry["cost"] for entry in entries if entry["status"] in ("done", "failed")]
    seconds = [float(c.get("seconds", 0)) for c in costs]
    phases: collections.Counter[str] = collections.Counter()
    for entry in entries:
        for name in ("ask_seconds", "tell_seconds"):
            phases["sampler"] += entry["cost"].get(name, 0)
        for name, value in (entry["cost"].get("phases") or {}).items():
            phases[name] += value
    ends = sorted(entry["cost"]["finished"] for entry in entries if entry["cost"].get("finished"))
    longest = max(seconds, default=0)
    gaps = [later - sooner for sooner, later in zip(ends, ends[1:])]
    clock = sum(gap for gap in gaps if gap <= max(10 * longest, 60)) + (seconds[0] if seconds else 0)
    return {
        "evaluation_hours": sum(seconds) / 3600,
        "clock_hours": clock / 3600,
        "per_hour": 3600 * len(costs) / clock if clock else math.nan,
        "seconds": _mean_and_spread(seconds),
        "phases": dict(phases),
        "workers": len({c.get("worker") for c in costs}),
        "peak_memory_mb": max((c.get("peak_memory_mb") or 0 for c in costs), default=0),
    }


def _mean_and_spread(values: Sequence[float]) -> dict[str, float | int]:
    if not values:
        return {"count": 0, "mean": math.nan, "spread": math.nan}
    mean = sum(values) / len(values)
    spread = math.sqrt(sum((value - mean) ** 2 for value in values) / max(1, len(values) - 1))
    return {"count": len(values), "mean": mean, "spread": spread}


def _architecture(space: Space, entry: dict) -> dict[str, Any]:
    return {
        "index": entry["index"],
        "reward": entry["reward"],
        "metrics": entry.get("metrics", {}),
        "tokens": entry["tokens"],
        "text": space.text(entry["tokens"]),
        "graph": entry.get("graph") or {},
    }

"""Write the report of a search, one HTML page and JSON, from its journal alone, also while the search runs.

The page shows the reward over time with other searches beside it (thesis Figures 6.3 and 7.2), the shares of
operations, aggregations and inputs over time (Figures 6.4 and 7.5), the best architectures as graphs (Figures 6.7,
7.3 and 7.4), and where the time went.
"""

import datetime
import html
import itertools
import json
import os
from collections.abc import Sequence
from typing import Any

from ..report.charts import CHART_STYLE, line_chart
from ..report.graphs import draw_graph
from ..report.page import definitions, grid, page, section, tiles
from ..utils.durations import duration
from ..utils.files import make_folder, written_beside
from .journal import read_journal
from .statistics import PERIOD, describe, moving_mean

__all__ = ["write_report"]

_DRAWN = 3  # best architectures that are drawn
_LINES = 8  # choices of a kind that have a line of their own: as many as there are colors


def write_report(folder: str, journal: str, *, beside: Sequence[str] = (), best: int = 10) -> str:
    """Write ``report.html`` and ``report.json`` to ``folder`` and return the path of the page.

    Args:
        journal: the search that is reported on.
        beside: journals of other searches, such as the baselines, for the figure of rewards.
        best: how many architectures the table has.

    Raises:
        UserError: a journal cannot be read, or the folder cannot be written.
    """
    summary = describe(*read_journal(journal), best=best)
    others = [describe(*read_journal(path), best=1) for path in beside]
    sections = [
        _tiles(summary),
        _rewards([summary, *others]),
        _best(summary),
        _shares(summary),
        _time(summary),
        _settings(summary),
    ]
    title = f"Search of {summary['space']}"
    subtitle = f"{summary['asked']} architectures by {summary['sampler']}  ·  {datetime.date.today():%d %B %Y}"
    make_folder(folder)
    path = os.path.join(folder, "report.html")
    body = "\n".join(part for part in sections if part)
    _write(path, page(title, subtitle, body, CHART_STYLE + _STYLE))
    _write(os.path.join(folder, "report.json"), json.dumps({**summary, "beside": others}, indent=1) + "\n")
    return path


def _write(path: str, text: str) -> None:
    with written_beside(path) as beside, open(beside, "w", encoding="utf-8") as file:
        file.write(text)


def _tiles(summary: dict[str, Any]) -> str:
    found = [(str(summary["done"]), "architectures evaluated")]
    if summary["best"]:
        found.append(
            (f"{summary['best'][0]['reward']:.4g}", f"best reward, architecture {summary['best'][0]['index']}")
        )
    if summary["cost"]["clock_hours"]:
        found.append((f"{summary['cost']['per_hour']:.3g}", "architectures an hour"))
        found.append((duration(3600 * summary["cost"]["clock_hours"]), "search time"))
    return tiles(found)


def _rewards(summaries: list[dict[str, Any]]) -> str:
    means, bests = {}, {}
    for summary in summaries:
        name = f"{summary['sampler']}, seed {summary['seed']}"
        name = name if name not in means else f"{name} ({len(means)})"
        curve = summary["reward"]
        if not curve:
            continue
        means[name] = moving_mean(curve)
        indices, rewards = zip(*curve)
        bests[name] = (indices, list(itertools.accumulate(rewards, max)))
    if not means:
        return section("Reward", "<p class=note>No architecture has been evaluated yet.</p>")
    first, last = summaries[0]["first"], summaries[0]["last"]
    lead = (
        f"Mean of the first {first['count']}: {first['mean']:.4g} (standard deviation {first['spread']:.2g}); "
        f"of the last {last['count']}: {last['mean']:.4g} ({last['spread']:.2g})."
    )
    body = _chart(means, "reward", f"Mean reward of the last {PERIOD} architectures, fewer in a short search.")
    return section("Reward", body + _chart(bests, "best reward", "The best reward so far."), lead)


def _chart(series: dict, y_label: str, caption: str, **options: Any) -> str:
    chart = line_chart(series, x_label="architecture", y_label=y_label, **options)
    return f"<figure class=chart>{chart}<figcaption>{html.escape(caption)}</figcaption></figure>"


def _best(summary: dict[str, Any]) -> str:
    if not summary["best"]:
        return ""
    parts = []
    for place, found in enumerate(summary["best"][:_DRAWN], 1):
        if found["graph"].get("nodes"):
            drawing = draw_graph(found["graph"]["nodes"], found["graph"]["edges"])
            caption = f"Number {place}: architecture {found['index']}, reward {found['reward']:.4g}."
            parts.append(f"<figure class='chart graph'>{drawing}<figcaption>{caption}</figcaption></figure>")
    names = sorted({name for found in summary["best"] for name in found["metrics"]})
    rows = [
        [f"{found['index']}", f"{found['reward']:.5g}", *(_number(found["metrics"].get(name)) for name in names)]
        for found in summary["best"]
    ]
    parts.append(grid(("architecture", "reward", *names), rows))
    tokens = "\n".join(
        f"{f['index']:6d}  {' '.join(map(str, f['tokens']))}\n        {f['text']}" for f in summary["best"]
    )
    parts.append(f"<details><summary>Their tokens and choices</summary><pre>{html.escape(tokens)}</pre></details>")
    return section("Best architectures", "".join(parts))


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


def _shares(summary: dict[str, Any]) -> str:
    parts = []
    for kind, found in summary["shares"].items():
        choices = [name for name in found if name != "index"]
        if len(found["index"]) < 2 or len(choices) < 2:
            continue
        frequent = sorted(choices, key=lambda name: -max(found[name]))[:_LINES]
        series = {name: (found["index"], found[name]) for name in choices if name in frequent}
        left_out = len(choices) - len(series)
        caption = f"Share of each {kind}, by period of {PERIOD} architectures" + (
            f"; {left_out} that were never frequent are left out." if left_out else "."
        )
        parts.append(f"<h3>{html.escape(kind)}</h3>" + _chart(series, "share", caption, bottom=0))
    return section("What the sampler prefers", "".join(parts)) if parts else ""


def _time(summary: dict[str, Any]) -> str:
    cost = summary["cost"]
    if not summary["done"] and not summary["failed"]:
        return ""
    rows = {
        "Evaluations": f"{cost['evaluation_hours']:.2f} h together, {cost['seconds']['mean']:.3g} s each on average "
        f"(standard deviation {cost['seconds']['spread']:.2g} s)",
        "Workers": str(cost["workers"]),
        "Most memory of a process": f"{cost['peak_memory_mb']:.0f} MB",
    }
    whole = sum(cost["phases"].values())
    for name, seconds in sorted(cost["phases"].items(), key=lambda item: -item[1]):
        rows[name.replace("_", " ").capitalize()] = f"{seconds:.3g} s" + (
            f", {100 * seconds / whole:.1f} % of what is listed" if whole else ""
        )
    counted = ("repeated", "rejected", "failed", "stopped")
    rows["Not evaluated in full"] = ", ".join(f"{summary[name]} {name}" for name in counted)
    return section("Where the time went", definitions(rows))


def _settings(summary: dict[str, Any]) -> str:
    text = json.dumps(
        {"sampler": summary["sampler"], "seed": summary["seed"], "settings": summary["settings"]}, indent=2
    )
    return section("What was searched", f"<pre>{html.escape(text)}</pre>")


_STYLE = """
.graph svg { max-height: 34rem; }
"""

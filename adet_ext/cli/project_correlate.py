"""The command that compares a search's proxy with a longer training: ``correlate`` of a project (thesis Figure 7.6)."""

import argparse
import copy
import json
import os
import statistics
from collections.abc import Sequence

import torch

from ..nas.evaluation import Task, limit_threads, load_factory
from ..nas.journal import read_journal
from ..nas.ranks import rank_correlation, spread
from ..nas.summary import find_journal
from ..report.charts import CHART_STYLE, scatter_chart
from ..report.page import page, section
from ..utils.files import written_beside
from .train import add_data_arguments

__all__ = ["run_correlate"]


def run_correlate(prog: str, node: str, factory: str, argv: Sequence[str] | None = None) -> int:
    """Train architectures of a journal for longer, from the worst to the best, and print how their ranks agree.

    Args:
        node: the config key whose node describes the search; its ITERATIONS are multiplied.
        factory: ``"package.module:function"``, see :class:`~.project_search.ProjectSearch`.
    """
    args = _build_parser(prog).parse_args(argv)
    path = find_journal(args.journal)
    recorded = read_journal(path)
    chosen = spread(recorded, args.count)
    settings = copy.deepcopy(recorded.header["settings"])
    search = settings["config"]
    for part in node.split("."):
        search = search[part]
    search["ITERATIONS"] = round(search["ITERATIONS"] * args.times)
    limit_threads(recorded.header["threads"])
    # Not part of a journal, which may come from another machine.
    device = ["MODEL.DEVICE", "cuda" if torch.cuda.is_available() else "cpu"]
    local = {"overrides": [*device, *args.opts], "datasets": args.dataset, "frames": args.frames}
    evaluate = load_factory(factory)({**settings, **local})
    rows = []
    for entry in chosen:
        tasks = [Task(entry["index"], tuple(entry["tokens"]), seed) for seed in args.seed]
        longer = [evaluate(task).reward for task in tasks]
        rows.append({"index": entry["index"], "reward": entry["reward"], "longer": statistics.fmean(longer)})
        print(
            f"architecture {entry['index']}: {entry['reward']:.4f} on the proxy, {rows[-1]['longer']:.4f} longer",
            flush=True,
        )
    found = {
        "rank_correlation": rank_correlation([r["reward"] for r in rows], [r["longer"] for r in rows]),
        "best": rows[-1]["longer"],
        "mean_of_others": statistics.fmean(row["longer"] for row in rows[:-1]),
        "iterations": search["ITERATIONS"],
        "seeds": args.seed,
        "architectures": rows,
    }
    _leave(os.path.dirname(path) or ".", found, args.times)
    return 0


def _build_parser(prog: str) -> argparse.ArgumentParser:
    text = "How well the proxy ranks architectures: its rewards beside those of a training that is longer."
    parser = argparse.ArgumentParser(prog=prog, description=text)
    parser.add_argument("journal", help="a search's journal.jsonl, or its --output folder")
    parser.add_argument("--count", type=int, default=15, metavar="N", help="architectures, from worst to best (15)")
    parser.add_argument("--times", type=float, default=4, metavar="X", help="as many iterations as the proxy's (4)")
    parser.add_argument("--seed", type=int, nargs="+", default=[1], help="of the longer trainings, averaged over (1)")
    add_data_arguments(parser)
    parser.add_argument("--opts", nargs="+", default=[], metavar="KEY VALUE", help="such as MODEL.DEVICE cpu")
    return parser


def _leave(folder: str, found: dict, times: float) -> None:
    """Write correlation.json and correlation.html, and print the coefficient."""
    rows = found["architectures"]
    points = {"architectures": ([r["reward"] for r in rows], [r["longer"] for r in rows])}
    chart = scatter_chart(
        points, x_label="reward on the proxy", y_label=f"reward after {found['iterations']} iterations", size=(6, 4)
    )
    text = (
        f"Spearman's rank correlation {found['rank_correlation']:.2f} over {len(rows)} architectures, {times:g} times "
        f"the iterations; the proxy's best {found['best']:.4f}, the others' mean {found['mean_of_others']:.4f}"
    )
    body = section("Proxy and longer training", f"<figure class=chart>{chart}</figure>", f"{text}.")
    path = os.path.join(folder, "correlation.html")
    _write(path, page("Rank correlation", text, body, CHART_STYLE))
    _write(os.path.join(folder, "correlation.json"), json.dumps(found, indent=1) + "\n")
    print(f"{text}; drawn in {path}")


def _write(path: str, text: str) -> None:
    with written_beside(path) as beside, open(beside, "w", encoding="utf-8") as file:
        file.write(text)

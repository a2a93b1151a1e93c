"""How well the proxy ranks architectures: its rewards beside those of a training that is longer (thesis Figure 7.6)."""

import argparse
import copy
import json
import os
from collections.abc import Sequence

import torch

from adet_ext.nas.evaluation import Task, limit_threads
from adet_ext.nas.journal import read_journal
from adet_ext.nas.ranks import rank_correlation, spread
from adet_ext.nas.summary import find_journal
from adet_ext.report.charts import CHART_STYLE, scatter_chart
from adet_ext.report.page import page, section
from adet_ext.utils.files import written_beside

from .proxy import make_evaluate

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Train architectures of a journal for longer, and print how their ranks agree."""
    parser = argparse.ArgumentParser(prog="python -m nas_fcos correlate", description=__doc__)
    parser.add_argument("journal", help="a search's journal.jsonl, or its --output folder")
    parser.add_argument("--count", type=int, default=15, metavar="N", help="architectures, from worst to best (15)")
    parser.add_argument("--times", type=float, default=4, metavar="X", help="as many iterations as the proxy's (4)")
    parser.add_argument("--seed", type=int, default=1, help="of the longer trainings (1)")
    parser.add_argument("--opts", nargs="+", default=[], metavar="KEY VALUE", help="such as MODEL.DEVICE cpu")
    args = parser.parse_args(argv)
    path = find_journal(args.journal)
    recorded = read_journal(path)
    chosen = spread(recorded, args.count)
    settings = copy.deepcopy(recorded.header["settings"])
    search = settings["config"]["MODEL"]["NAS_FCOS"]["SEARCH"]
    search["ITERATIONS"] = round(search["ITERATIONS"] * args.times)
    limit_threads(recorded.header["threads"])
    # Not part of a journal, which may come from another machine.
    device = ["MODEL.DEVICE", "cuda" if torch.cuda.is_available() else "cpu"]
    evaluate = make_evaluate({**settings, "overrides": [*device, *args.opts]})
    rows = []
    for entry in chosen:
        longer = evaluate(Task(entry["index"], tuple(entry["tokens"]), args.seed))
        rows.append({"index": entry["index"], "reward": entry["reward"], "longer": longer.reward})
        print(
            f"architecture {entry['index']}: {entry['reward']:.4f} on the proxy, {longer.reward:.4f} longer", flush=True
        )
    found = {
        "rank_correlation": rank_correlation([r["reward"] for r in rows], [r["longer"] for r in rows]),
        "iterations": search["ITERATIONS"],
        "architectures": rows,
    }
    _leave(os.path.dirname(path) or ".", found, args.times)
    return 0


def _leave(folder: str, found: dict, times: float) -> None:
    """Write correlation.json and correlation.html, and print the coefficient."""
    rows = found["architectures"]
    points = {"architectures": ([r["reward"] for r in rows], [r["longer"] for r in rows])}
    chart = scatter_chart(
        points, x_label="reward on the proxy", y_label=f"reward after {found['iterations']} iterations", size=(6, 4)
    )
    text = (
        f"Spearman's rank correlation {found['rank_correlation']:.2f} over {len(rows)} architectures, {times:g} times"
    )
    body = section("Proxy and longer training", f"<figure class=chart>{chart}</figure>", f"{text} the iterations.")
    path = os.path.join(folder, "correlation.html")
    _write(path, page("Rank correlation", text, body, CHART_STYLE))
    _write(os.path.join(folder, "correlation.json"), json.dumps(found, indent=1) + "\n")
    print(f"{text} the iterations; drawn in {path}")


def _write(path: str, text: str) -> None:
    with written_beside(path) as beside, open(beside, "w", encoding="utf-8") as file:
        file.write(text)

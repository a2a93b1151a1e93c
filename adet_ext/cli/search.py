"""``search``: what the journal of an architecture search says. The searches themselves are the projects' commands."""

import argparse
import json
import os
from collections.abc import Sequence

from ..errors import UserError
from ..nas.journal import read_journal
from ..nas.summary import best_entries, find_journal, render, summarize

__all__ = ["main"]


def build_parser() -> argparse.ArgumentParser:
    """The command line of journals."""
    parser = argparse.ArgumentParser(
        description="Show what an architecture search has found, also while it runs.",
        epilog="A project's search_net.py searches; projects/*/README.md has the commands.",
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    show = actions.add_parser("show", help="state, costs and the best architectures of a journal, as text")
    show.add_argument("journal", help="a search's journal.jsonl, or its --output folder")
    show.add_argument("--best", type=int, default=5, metavar="N", help="how many architectures (5)")
    show.add_argument("--json", action="store_true", help="as JSON; the best architectures as in the journal")
    report = actions.add_parser("report", help="the same with charts and drawings, as an HTML page and JSON")
    report.add_argument("journal", help="a search's journal.jsonl, or its --output folder")
    report.add_argument("--beside", nargs="+", default=[], metavar="JOURNAL", help="other searches, such as the "
                        "baselines, for the figure of rewards")  # fmt: skip
    report.add_argument("--output", default="", metavar="DIR", help="folder of report.html (the journal's own)")
    report.add_argument("--best", type=int, default=10, metavar="N", help="how many architectures (10)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Print the summary of a journal, or write its report."""
    arguments = build_parser().parse_args(argv)
    if arguments.best < 0:
        raise UserError(f"--best must be 0 or more; got {arguments.best}.")
    path = find_journal(arguments.journal)
    if arguments.action == "report":
        from ..nas.report import write_report  # draws with matplotlib

        folder = arguments.output or os.path.dirname(path) or "."
        beside = [find_journal(other) for other in arguments.beside]
        print(write_report(folder, path, beside=beside, best=arguments.best))
    elif arguments.json:
        best = best_entries(read_journal(path).entries, arguments.best)
        print(json.dumps({**summarize(path), "best": best}, indent=2))
    else:
        print(render(path, arguments.best))
    return 0

"""``search``: what the journal of an architecture search says. The searches themselves are the projects' commands."""

import argparse
import json
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
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Print the summary of a journal."""
    arguments = build_parser().parse_args(argv)
    if arguments.best < 0:
        raise UserError(f"--best must be 0 or more; got {arguments.best}.")
    path = find_journal(arguments.journal)
    if arguments.json:
        best = best_entries(read_journal(path).entries, arguments.best)
        print(json.dumps({**summarize(path), "best": best}, indent=2))
    else:
        print(render(path, arguments.best))
    return 0

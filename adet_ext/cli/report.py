"""``report``: write the HTML report of a training from its output folder."""

import argparse
from collections.abc import Sequence

from ..report.training import make_report

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Write the report and print its path."""
    parser = argparse.ArgumentParser(description="Write the HTML report of a training.")
    parser.add_argument("output_dir", help="the training's OUTPUT_DIR, with its metrics.json")
    parser.add_argument("--title", default="", help="the heading")
    arguments = parser.parse_args(argv)
    print(make_report(arguments.output_dir, title=arguments.title))
    return 0

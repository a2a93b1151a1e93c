"""The verbs of ``python -m adet_ext`` with the project's model, and its own: ``python -m video_cells VERB``."""

import sys

from adet_ext import cli

_OWN = {
    "draw": "cells and static decoders as graphs, on an HTML page",
    "cost": "parameters, multiply-adds and time of a frame, with the static network and with a cell",
}


def main(argv: list[str]) -> int:
    """Run a verb and return its exit status."""
    if argv[:1] and argv[0] in _OWN:
        return cli.run(argv[0], argv[1:], package="video_cells")
    status = cli.main(argv)
    if not argv or argv[0] in ("-h", "--help", "help"):
        print("\nverbs of the project:", *(f"  {verb:<9}{what}" for verb, what in _OWN.items()), sep="\n")
    return status


if __name__ == "__main__":  # worker processes import this module again
    sys.exit(main(sys.argv[1:]))

"""The verbs of ``python -m adet_ext`` with the project's model, and its own: ``python -m video_cells VERB``."""

import sys

from adet_ext.cli import project_main

_OWN = {
    "draw": "cells and static decoders as graphs, on an HTML page",
    "cost": "parameters, multiply-adds and time of a frame, with the static network and with a cell",
}


def main(argv: list[str]) -> int:
    """Run a verb and return its exit status."""
    return project_main("video_cells", _OWN, argv)


if __name__ == "__main__":  # worker processes import this module again
    sys.exit(main(sys.argv[1:]))

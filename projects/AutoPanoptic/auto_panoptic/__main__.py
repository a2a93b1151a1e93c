"""``python -m auto_panoptic VERB``: the verbs of ``python -m adet_ext`` with the project's models, and its own."""

import sys

from adet_ext.cli import project_main

_OWN = {
    "table": "what the searched backbones cost, and how many architectures the space has",
    "correlate": "how shared weights rank architectures beside training each alone",
}


def main(argv: list[str]) -> int:
    """Run a verb and return its exit status."""
    return project_main("auto_panoptic", _OWN, argv)


if __name__ == "__main__":  # worker processes import this module again
    sys.exit(main(sys.argv[1:]))

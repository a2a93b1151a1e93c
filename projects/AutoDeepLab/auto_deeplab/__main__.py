"""``python -m auto_deeplab VERB``: the verbs of ``python -m adet_ext`` with the project's models, and its own."""

import sys

from adet_ext.cli import project_main

_OWN = {
    "table": "Table 2: what Auto-DeepLab-S, -M and -L cost, and by how much that differs from the paper",
    "sample": "an architecture drawn at random with as many parameters as another has",
    "correlate": "how the rewards of dense prediction cells rank them beside a longer training",
}


def main(argv: list[str]) -> int:
    """Run a verb and return its exit status."""
    return project_main("auto_deeplab", _OWN, argv)


if __name__ == "__main__":  # worker processes import this module again
    sys.exit(main(sys.argv[1:]))

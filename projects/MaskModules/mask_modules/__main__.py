"""``python -m mask_modules VERB``: the verbs of ``python -m adet_ext`` with the project's models, and its own."""

import sys

from adet_ext.cli import project_main

_OWN = {"correlate": "how the proxy's rewards rank modules beside a longer training"}


def main(argv: list[str]) -> int:
    """Run a verb and return its exit status."""
    return project_main("mask_modules", _OWN, argv)


if __name__ == "__main__":  # worker processes import this module again
    sys.exit(main(sys.argv[1:]))

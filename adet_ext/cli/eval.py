"""``eval``: evaluate a checkpoint; ``train --eval-only`` under a shorter name."""

import sys

from . import train

__all__ = ["main"]


def main(argv: list[str] | None = None) -> None:
    train.main(["--eval-only", *(sys.argv[1:] if argv is None else argv)])

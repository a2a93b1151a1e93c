"""The verbs of ``python -m adet_ext`` with the project's model and keys: ``python -m video_cells VERB``."""

import sys

from adet_ext import cli

if __name__ == "__main__":  # worker processes import this module again
    sys.exit(cli.main(sys.argv[1:]))

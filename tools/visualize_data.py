#!/usr/bin/env python3
"""Draw a data set: ``tools/visualize_data.py [--config-file FILE] [--dataset NAME IMAGES ANNOTATIONS] ...``."""

import sys

from adet_ext.cli import run

if __name__ == "__main__":  # worker processes import this module again
    sys.exit(run("data", ["draw", *sys.argv[1:]]))

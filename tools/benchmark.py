#!/usr/bin/env python3
"""Time models against one another: ``tools/benchmark.py models --config-file A B``."""

import sys

from adet_ext.cli import run

if __name__ == "__main__":  # worker processes import this module again
    sys.exit(run("bench"))

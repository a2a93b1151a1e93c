#!/usr/bin/env python3
"""Time models: ``tools/benchmark.py models --config-file A B``; or the operators: ``tools/benchmark.py ops``."""

import sys

from adet_ext.cli import run

if __name__ == "__main__":  # worker processes import this module again
    sys.exit(run("bench"))

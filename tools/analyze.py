#!/usr/bin/env python3
"""Parameters, multiply-adds and activations of a model: ``tools/analyze.py --config-file FILE``."""

import sys

from adet_ext.cli import run

if __name__ == "__main__":  # worker processes import this module again
    sys.exit(run("analyze"))

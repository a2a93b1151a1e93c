#!/usr/bin/env python3
"""Draw a model's predictions: ``tools/demo.py --config-file FILE --input IMAGE ... --output FOLDER``."""

import sys

from adet_ext.cli import run

if __name__ == "__main__":  # worker processes import this module again
    sys.exit(run("demo"))

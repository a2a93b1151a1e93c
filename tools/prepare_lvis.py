#!/usr/bin/env python3
"""Make LVIS annotations of COCO's categories: ``tools/prepare_lvis.py [--splits v0.5_val] [--root DIR]``."""

import sys

from adet_ext.cli import run

if __name__ == "__main__":
    sys.exit(run("data", ["prepare-lvis", *sys.argv[1:]]))

#!/usr/bin/env python3
"""Make COCO's label maps of stuff: ``tools/prepare_panoptic.py [--splits val2017 train2017] [--root DIR]``."""

import sys

from adet_ext.cli import run

if __name__ == "__main__":  # worker processes import this module again
    sys.exit(run("data", ["prepare-panoptic", *sys.argv[1:]]))

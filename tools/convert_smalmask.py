#!/usr/bin/env python3
"""A SmalMask2's checkpoint from a shared SmalMask's, or the reverse: ``tools/convert_smalmask.py FROM TO``."""

import sys

from adet_ext.cli import run

if __name__ == "__main__":
    sys.exit(run("convert"))

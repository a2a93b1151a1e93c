#!/usr/bin/env python3
"""Train or evaluate a model: ``tools/train_net.py --config-file FILE [--eval-only] [KEY VALUE ...]``."""

import sys

from adet_ext.cli import run

if __name__ == "__main__":  # worker processes import this module again
    sys.exit(run("train"))

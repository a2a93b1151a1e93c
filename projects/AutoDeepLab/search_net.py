#!/usr/bin/env python3
"""Search for an architecture: ``search_net.py --config-file configs/search/FILE [--resume] [KEY VALUE ...]``."""

import os
import sys
from pathlib import Path

if "OMP_WAIT_POLICY" not in os.environ:  # see adet_ext/utils/threads.py; before torch is loaded
    os.environ.update(OMP_WAIT_POLICY="passive", GOMP_SPINCOUNT="1000")
sys.path.insert(0, str(Path(__file__).resolve().parent))  # where worker processes start from elsewhere

import auto_deeplab  # noqa: E402, F401  (registers the models and the config keys)

from adet_ext.cli import run  # noqa: E402

if __name__ == "__main__":  # worker processes import this module again
    sys.exit(run("search", package="auto_deeplab"))

#!/usr/bin/env python3
"""Train or evaluate with a searched module: ``train_net.py --config-file configs/FILE [--eval-only] [KEY VALUE ...]``.

It takes what ``tools/train_net.py`` takes.
"""

import os
import sys
from pathlib import Path

if "OMP_WAIT_POLICY" not in os.environ:  # see adet_ext/utils/threads.py; before torch is loaded
    os.environ.update(OMP_WAIT_POLICY="passive", GOMP_SPINCOUNT="1000")
sys.path.insert(0, str(Path(__file__).resolve().parent))  # where worker processes start from elsewhere

import mask_modules  # noqa: E402, F401  (registers the models and the config keys)

from adet_ext.cli import run  # noqa: E402

if __name__ == "__main__":  # worker processes import this module again
    sys.exit(run("train"))

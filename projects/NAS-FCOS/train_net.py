#!/usr/bin/env python3
"""Train or evaluate NAS-FCOS: ``train_net.py --config-file configs/FILE [--eval-only] [KEY VALUE ...]``.

It takes what ``tools/train_net.py`` takes.
"""

import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch is loaded; its threads would keep cores busy
sys.path.insert(0, str(Path(__file__).resolve().parent))  # where worker processes start from elsewhere

import nas_fcos  # noqa: E402, F401  (registers the models and the config keys)

from adet_ext.cli import run  # noqa: E402

if __name__ == "__main__":  # worker processes import this module again
    sys.exit(run("train"))

#!/usr/bin/env python3
"""Train or evaluate a model: ``tools/train_net.py --config-file FILE [--eval-only] [KEY VALUE ...]``."""

import os
import sys

if "OMP_WAIT_POLICY" not in os.environ:  # see adet_ext/utils/threads.py; before torch is loaded
    os.environ.update(OMP_WAIT_POLICY="passive", GOMP_SPINCOUNT="1000")

from adet_ext.cli import run  # noqa: E402

if __name__ == "__main__":  # worker processes import this module again
    sys.exit(run("train"))

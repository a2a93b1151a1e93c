#!/usr/bin/env python3
"""Predict on a video or a folder of frames: ``predict_video.py --config-file configs/FILE --video-input PATH ...``.

It takes what ``python -m adet_ext demo`` takes, such as ``--output``, ``--label-maps`` and ``--side-by-side``.
"""

import os
import sys
from pathlib import Path

if "OMP_WAIT_POLICY" not in os.environ:  # see adet_ext/utils/threads.py; before torch is loaded
    os.environ.update(OMP_WAIT_POLICY="passive", GOMP_SPINCOUNT="1000")
sys.path.insert(0, str(Path(__file__).resolve().parent))

import video_cells  # noqa: E402, F401  (registers the models and the config keys)

from adet_ext.cli import run  # noqa: E402

if __name__ == "__main__":
    sys.exit(run("demo"))

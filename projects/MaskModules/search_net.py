#!/usr/bin/env python3
"""Search for a module of bases: ``search_net.py --config-file configs/search/FILE --budget N [KEY VALUE ...]``.

A search that was stopped goes on with the same command.
"""

import os
import sys
from pathlib import Path

if "OMP_WAIT_POLICY" not in os.environ:  # see adet_ext/utils/threads.py; before torch is loaded
    os.environ.update(OMP_WAIT_POLICY="passive", GOMP_SPINCOUNT="1000")
FOLDER = str(Path(__file__).resolve().parent)
sys.path.insert(0, FOLDER)
# Worker processes import the package too.
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [FOLDER, os.environ.get("PYTHONPATH")]))

import mask_modules  # noqa: E402, F401  (registers the models and the config keys)

from adet_ext.cli import run  # noqa: E402

if __name__ == "__main__":  # worker processes import this module again
    sys.exit(run("search", package="mask_modules"))

#!/usr/bin/env python3
"""Draw a model's predictions: ``tools/demo.py --config-file FILE --input IMAGE ... --output FOLDER``."""

import os
import sys

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # see adet_ext/utils/threads.py; before torch is loaded

from adet_ext.cli import run  # noqa: E402

if __name__ == "__main__":  # worker processes import this module again
    sys.exit(run("demo"))

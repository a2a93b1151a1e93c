"""The project is imported from its folder, not installed."""

import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
if str(PROJECT) not in sys.path:
    sys.path.insert(0, str(PROJECT))

import auto_panoptic  # noqa: E402, F401  (registers its models and keys)

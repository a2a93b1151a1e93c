"""The rules of ruff, and its format, for all files: what ``make lint`` checks."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PINNED = next(line for line in (ROOT / "constraints.txt").read_text().splitlines() if line.startswith("ruff=="))


def ruff(*words):
    return subprocess.run([sys.executable, "-m", "ruff", *words], cwd=ROOT, capture_output=True, text=True)


@pytest.fixture(autouse=True)
def _pinned():
    found = ruff("--version").stdout.strip()
    if found.replace(" ", "==") != PINNED:
        pytest.skip(f"{PINNED} must be installed; found {found or 'none'}")


@pytest.mark.parametrize("words", [("check",), ("format", "--check")], ids=["rules", "format"])
def test_all_files_pass(words):
    done = ruff(*words, ".")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]

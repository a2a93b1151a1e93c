"""Short runs of the fuzz scripts of checkpoints and kills. Each in a process of its own, because it forks."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux")
@pytest.mark.parametrize(
    "words",
    [
        ("fuzz_checkpoints", "--files", "108", "--seed", "11"),
        ("fuzz_kills", "--kills", "2", "--iterations", "22", "--seed", "3"),
    ],
)
def test_a_short_seeded_run_finds_nothing(words):
    name, *arguments = words
    done = subprocess.run(
        [sys.executable, "-m", f"tests.fuzz.{name}", *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]

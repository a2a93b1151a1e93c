"""Let the threads of a command share a busy machine.

Between two tasks, OpenMP's threads by default wait in a loop that keeps their cores busy. On a machine with other busy
processes, they then wait for threads that the system does not run, and everything takes several times as long. Passive
waiting leaves the cores to others. OpenMP reads the setting when torch is loaded, so it must be set before.
"""

import os
import sys

__all__ = ["is_command", "wait_passively"]


def is_command() -> bool:
    """Whether this process is a command of this package, not a user's program that imports it."""
    program = os.path.basename(sys.argv[0] if sys.argv else "")
    # While "python -m" imports a package, the program is "-m" and the package is the next word.
    words = sys.orig_argv
    return program in ("adet-ext", "adet-ext.exe") or (
        program == "-m" and "adet_ext" in (after for before, after in zip(words, words[1:]) if before == "-m")
    )


def wait_passively() -> None:
    """Set passive waiting for this process and those it starts, unless the user has set it."""
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"} & os.environ.keys():
        os.environ["OMP_WAIT_POLICY"] = "passive"

"""Let the threads of a command share a busy machine.

Between two pieces of work, OpenMP's threads by default wait in a loop that keeps their cores busy. Beside another busy
process they then wait for threads that the system does not run, and everything takes several times as long. Waiting
passively leaves the core to others. OpenMP reads the setting when torch is loaded, so it comes before.
"""

import os
import sys

__all__ = ["is_command", "wait_passively"]


def is_command() -> bool:
    """Whether this process is a command of this package, not a user's program that imports it."""
    program = os.path.basename(sys.argv[0] if sys.argv else "")
    # While a package is imported for "python -m", the program is "-m"; its name is the word after that.
    words = sys.orig_argv
    return program in ("adet-ext", "adet-ext.exe") or (
        program == "-m" and "adet_ext" in (after for before, after in zip(words, words[1:]) if before == "-m")
    )


def wait_passively() -> None:
    """Set passive waiting for this process and those it starts, unless the user has set how to wait."""
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"} & os.environ.keys():
        os.environ["OMP_WAIT_POLICY"] = "passive"

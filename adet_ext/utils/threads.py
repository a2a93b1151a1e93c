"""Let the threads of a command share a busy machine.

Between two tasks, OpenMP's threads by default wait in a loop that keeps their cores busy. On a machine with other busy
processes, they then wait for threads that the system does not run, and everything takes several times as long. Passive
waiting leaves the cores to others, but waking a thread up takes time: on an idle machine small models lost a quarter of
their speed. A short loop before the thread sleeps gives most of that back. Iterations, or images, a second on two
cores, of the demo's training and inference:

=====================  ==============  ============  ============
beside busy processes  default         passive       as set here
=====================  ==============  ============  ============
none                   4.1 and 58      3.1 and 43    3.8 and 50
one                    1.2 and 17      2.1 and 37    1.9 and 29
two                    1.0 and 6       1.6 and 26    1.8 and 24
=====================  ==============  ============  ============

OpenMP reads the setting when torch is loaded, so it must be set before.
"""

import os
import sys

__all__ = ["is_command", "wait_passively"]

_SPINS = "1000"  # turns of GNU's OpenMP before it sleeps; by default 300,000


def is_command() -> bool:
    """Whether this process is a command of this package, not a user's program that imports it."""
    program = os.path.basename(sys.argv[0] if sys.argv else "")
    # While "python -m" imports a package, the program is "-m" and the package is the next word.
    words = sys.orig_argv
    return program in ("adet-ext", "adet-ext.exe") or (
        program == "-m" and "adet_ext" in (after for before, after in zip(words, words[1:]) if before == "-m")
    )


def wait_passively() -> None:
    """Set nearly passive waiting for this process and those it starts, unless the user has set it."""
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"} & os.environ.keys():
        os.environ.update(OMP_WAIT_POLICY="passive", GOMP_SPINCOUNT=_SPINS)

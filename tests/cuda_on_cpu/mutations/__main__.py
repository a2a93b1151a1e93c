"""Plant each fault of faults.py and run the tests that must find it: ``python -m tests.cuda_on_cpu.mutations``.

All faults are compiled into one library, each behind a switch. A fault is caught if a test fails, crashes or works for
more than two minutes. Exit with 1 if a fault survives that faults.py does not explain.
"""

import argparse
import contextlib
import io
import os
import signal
import sys
import time
from collections.abc import Iterable

import pytest

from tests.cuda_on_cpu import emulation
from tests.cuda_on_cpu.build import CSRC

from .faults import EQUIVALENT, FAULTS, Fault

_SECONDS = 120
_SWITCH = """
#pragma GCC visibility push(hidden)
namespace emulator {
bool mutant(int number);
}
#pragma GCC visibility pop
"""


def mutated_sources() -> dict[str, str]:
    """Return the sources of csrc with all faults, each behind its switch; its number counts from 1."""
    texts = {}
    for number, fault in enumerate(FAULTS, 1):
        text = texts.get(fault.source) or (CSRC / fault.source).read_text()
        texts[fault.source] = _plant(text, number, fault)
    return {name: _after_pragma(text) for name, text in texts.items()}


def _plant(text: str, number: int, fault: Fault) -> str:
    before, rest = fault.place.split("«")
    part, after = rest.split("»")
    # Faults that were planted before may be in the way, but only in other parts of a place.
    if text.count(before + part + after) != 1:
        raise ValueError(f"{fault.source} has {text.count(before + part + after)} places like {fault.place}")
    on = f"::emulator::mutant({number})"
    if part.endswith(";"):
        new = f"if ({on}) {{ {fault.replacement} }} else {{ {part} }}"
    else:
        new = f"({on} ? ({fault.replacement}) : ({part}))"
    return text.replace(before + part + after, before + new + after)


def _after_pragma(text: str) -> str:
    if "#pragma once" in text:
        return text.replace("#pragma once", "#pragma once" + _SWITCH, 1)
    return _SWITCH + text


def survives(machine: emulation.Emulator, number: int, tests: str) -> bool:
    """Run the tests with a fault in a process of their own, and return whether they pass."""
    child = os.fork()
    if child == 0:
        signal.setitimer(signal.ITIMER_PROF, _SECONDS)  # of work: then a signal ends the process
        machine.mutant(number)
        os._exit(run_tests([tests], "-x", "--hypothesis-seed=0"))
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def run_tests(names: Iterable[str], *words: str) -> int:
    """Run the emulated tests of these files of tests/layers in silence; return pytest's status."""
    words = [*words, "-q", "-p", "no:cacheprovider", "-k", "emulated"]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        return int(pytest.main([*words, *(f"tests/layers/test_{name}.py" for name in names)]))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", type=int, nargs="*", help="numbers of faults")
    parser.add_argument("--dry", action="store_true", help="only compile them")
    options = parser.parse_args()
    machine = emulation.Emulator("checked", mutated_sources())
    if options.dry:
        return 0
    emulation.emulator = lambda: machine
    left = []
    chosen = {n: fault for n, fault in enumerate(FAULTS, 1) if not options.only or n in options.only}
    files = sorted({fault.tests for fault in chosen.values()})
    run_tests(files, "--collect-only")  # imports everything, once for all
    for tests in files:
        if not survives(machine, 0, tests):
            raise SystemExit(f"tests/layers/test_{tests}.py fails without a fault")
    for number, fault in chosen.items():
        start = time.monotonic()
        lives = survives(machine, number, fault.tests)
        what = "SURVIVES" if lives else "caught"
        print(f"{number:3} {what:8} {time.monotonic() - start:4.0f} s  {fault.source}: {fault.place!r}", flush=True)
        left += [fault] if lives else []
    unknown = [fault for fault in left if fault.place not in EQUIVALENT]
    count = len(options.only or FAULTS)
    print(
        f"caught {count - len(left)} of {count}; {len(left) - len(unknown)} change nothing; {len(unknown)} to explain"
    )
    return 1 if unknown else 0


if __name__ == "__main__":
    sys.exit(main())

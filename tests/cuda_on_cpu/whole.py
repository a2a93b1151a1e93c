"""Run the tests of the emulated kernels in every variant and in several orders: ``make test-kernels``.

Each round is a pytest of its own: a variant of the library (build.VARIANTS), a seed for the order of blocks and threads
and for the examples of hypothesis. Exit with 1 if a round fails.
"""

import argparse
import os
import subprocess
import sys
import time

from .build import compiler, library

ROUNDS = [("checked", seed) for seed in range(4)] + [("fused", 0), ("fused", 1), ("asan", 0), ("asan", 1)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--variant", help="only this one")
    chosen = parser.parse_args().variant
    failed = 0
    for variant, seed in ROUNDS:
        if chosen in (None, variant):
            failed += run(variant, seed)
    return 1 if failed else 0


def run(variant: str, seed: int) -> bool:
    """Run one round, print a line about it, and return whether it failed."""
    library(variant)
    start = time.monotonic()
    environment = {**os.environ, "EMULATOR_VARIANT": variant, "EMULATOR_SEED": str(seed)}
    paths = ["tests/layers"] + (["tests/cuda_on_cpu"] if variant == "checked" else [])
    if variant == "asan":
        # The second for exceptions: the sanitizer looks for the function that throws them when it starts.
        libraries = " ".join(_file_of_gcc(name) for name in ("libasan.so", "libstdc++.so"))
        options = "detect_leaks=0:detect_stack_use_after_return=0"
        environment |= {"LD_PRELOAD": libraries, "ASAN_OPTIONS": options}
    words = ["-q", "-p", "no:cacheprovider", "-k", "emulated or emulator", f"--hypothesis-seed={seed}", *paths]
    done = subprocess.run([sys.executable, "-m", "pytest", *words], env=environment, capture_output=True, text=True)
    last = done.stdout.strip().splitlines()[-1] if done.stdout.strip() else "nothing ran"
    print(f"{variant:8} seed {seed}: {last}; {time.monotonic() - start:.0f} s", flush=True)
    if done.returncode:
        print(done.stdout[-6000:], done.stderr[-3000:], sep="\n", flush=True)
    return done.returncode != 0


def _file_of_gcc(name: str) -> str:
    words = [compiler(), f"-print-file-name={name}"]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()


if __name__ == "__main__":
    sys.exit(main())

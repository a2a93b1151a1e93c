"""Kill toy searches at random moments, tear their last lines, go on; compare with a search that was never killed.

``python -m tests.fuzz.fuzz_searches --kills 10 --seed 0 --workers 2`` from the root of the checkout. With workers,
every second kill hits one of them instead of the search.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

if __name__ == "__main__":
    import tests.nas.light  # noqa: F401  (without the models)

from tests.nas import toy


def start(path: Path, seconds: float, workers: int, sampler: str) -> subprocess.Popen:
    """Begin or go on with a search in a process of its own."""
    options = {"path": str(path), "workers": workers, "local": {"seconds": seconds}, "sampler": sampler}
    if sampler != "evolution":
        options["sampler_settings"] = {}
    with open(path.parent / "terminal.txt", "a") as terminal:
        return subprocess.Popen([sys.executable, toy.__file__, json.dumps(options)], stderr=terminal)


def tear(path: Path, rng: random.Random) -> None:
    """Leave the journal as a kill in the middle of a write does: with a last line that is cut off, or one too many."""
    data = path.read_bytes() if path.exists() else b""
    if data.count(b"\n") < 2:
        return
    last = data[data[:-1].rfind(b"\n") + 1 :]
    if rng.random() < 0.5:
        path.write_bytes(data[: len(data) - rng.randrange(1, len(last))])
    else:
        path.write_bytes(data + last[: rng.randrange(1, len(last) - 1)])


def children(process: int) -> list[int]:
    """The numbers of the worker processes."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            stat = Path("/proc", name, "stat").read_text().rpartition(")")[2].split()
            if int(stat[1]) == process and b"spawn_main" in Path("/proc", name, "cmdline").read_bytes():
                found.append(int(name))
        except OSError:
            continue
    return found


def kill(search: subprocess.Popen, rng: random.Random, worker: bool) -> None:
    """Kill the search, or one of its workers; a search that has no worker yet goes on."""
    if not worker:
        search.kill()
        search.wait()
        return
    workers = children(search.pid)
    if workers:
        try:
            os.kill(rng.choice(workers), signal.SIGKILL)
        except ProcessLookupError:
            pass


def run(kills: int, seed: int, workers: int = 0, seconds: float = 0.01, sampler: str = "evolution") -> dict[str, int]:
    """Kill so many times; return how many kills, torn lines, searches, and searches with the same journal."""
    rng, counts = random.Random(seed), {"kills": 0, "torn": 0, "searches": 0, "equal": 0}
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder, "whole", "journal.jsonl")
        whole.parent.mkdir()
        begin = time.monotonic()
        assert start(whole, seconds, workers, sampler).wait(300) == 0, (whole.parent / "terminal.txt").read_text()[
            -3000:
        ]
        length = time.monotonic() - begin
        while counts["kills"] < kills:
            counts["searches"] += 1
            path = Path(folder, str(counts["searches"]), "journal.jsonl")
            path.parent.mkdir()
            counts["equal"] += until_done(path, rng, counts, kills, workers, seconds, length, sampler) and (
                toy.lines(path) == toy.lines(whole)
            )
            left = {x.name for x in path.parent.iterdir()}
            assert left == {"journal.jsonl", "journal.jsonl.state", "terminal.txt"}, left
            if counts["equal"] < counts["searches"]:
                print(*(f"{x}\n{y}" for x, y in zip(toy.lines(path), toy.lines(whole)) if x != y), file=sys.stderr)
                print((path.parent / "terminal.txt").read_text()[-3000:], file=sys.stderr)
                break
    return counts


def until_done(path, rng, counts, kills, workers, seconds, length, sampler) -> bool:
    """Kill a search and go on with it until it is done; return whether it ended well."""
    while True:
        search = start(path, seconds, workers, sampler)
        while counts["kills"] < kills:
            try:
                return search.wait(rng.uniform(0.1, length)) == 0
            except subprocess.TimeoutExpired:
                counts["kills"] += 1
                worker = bool(workers) and counts["kills"] % 2 == 0
                kill(search, rng, worker)
                if not worker:
                    break
        else:
            return search.wait(300) == 0
        before = path.stat().st_size if path.exists() else 0
        if rng.random() < 0.5:
            tear(path, rng)
        counts["torn"] += path.exists() and path.stat().st_size != before


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=0.01, help="of an evaluation")
    parser.add_argument("--sampler", choices=["controller", "evolution", "random"], default="evolution")
    arguments = parser.parse_args()
    found = run(arguments.kills, arguments.seed, arguments.workers, arguments.seconds, arguments.sampler)
    print(json.dumps(found))
    sys.exit(found["equal"] < found["searches"])

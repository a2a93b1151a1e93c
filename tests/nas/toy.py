"""A toy search: a small space, an evaluation of milliseconds with every outcome there is, and the search as a process.

``python tests/nas/toy.py '{"path": ..., "budget": ...}'`` searches with these keywords of ``search``.
"""

import sys
from pathlib import Path

if __name__ in ("__main__", "__mp_main__"):  # __mp_main__: in the workers that this process starts
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    import tests.nas.light  # noqa: F401

import json
import logging
import os
import random
import signal
import time

from adet_ext.errors import UserError
from adet_ext.nas.evaluation import Outcome, Task
from adet_ext.nas.journal import read_journal
from adet_ext.nas.search import search
from adet_ext.nas.space import Decision, Space

FACTORY = "tests.nas.toy:factory"
POPULATION = {"population": 8, "tournament": 3}


class Toy(Space):
    """Five decisions of four; the last two may be swapped, and the first two must not both be 0."""

    def __init__(self):
        super().__init__("toy", [Decision(f"d{i}", "letter", ("a", "b", "c", "d")) for i in range(5)])

    def canonical(self, tokens):
        tokens = self.check(tokens)
        return (*tokens[:3], *sorted(tokens[3:]))

    def why_rejected(self, tokens):
        return "it starts with a a" if tuple(tokens[:2]) == (0, 0) else ""

    def graph(self, tokens):
        return {"nodes": [[0, "in"], [1, str(tokens[0])]], "edges": [[0, 1, ""]]}


def factory(settings: dict):
    """An evaluation. All settings are optional.

    seconds: how long it takes; some take twice as long. broken: what the factory raises. kill_once: indices whose
    process is killed, once for each file in the folder ``marks``. kill: indices whose process is always killed.
    wrong: indices at which the user has to put something right. stop: at this index this process's parent, or this
    process itself, gets the signal ``number``, once.
    """
    if "broken" in settings:
        raise UserError(settings["broken"])
    if settings.get("exit"):
        os._exit(3)

    def evaluate(task: Task) -> Outcome:
        act(settings, task)
        time.sleep(settings.get("seconds", 0) * (1 + (task.index % 3 == 0)))
        if task.tokens[:2] == (3, 3):
            raise ValueError("b must\nnot follow b")
        if task.tokens[:2] == (2, 2):
            return Outcome(float("nan"))
        # Global random numbers: the core seeds them.
        reward = sum(task.tokens) / 15 + 0.1 * random.random()
        scores = (reward / 2,)
        if task.thresholds and not scores[0] > task.thresholds[0]:
            return Outcome(reward / 4, scores=scores, stopped=True)
        return Outcome(reward, {"size": sum(task.tokens), "loss": float("inf")}, scores)

    return evaluate


def act(settings: dict, task: Task) -> None:
    if task.index in settings.get("wrong", ()):
        raise UserError("The proxy must have images; got none. Name a folder with some.")
    if task.index in settings.get("kill", ()) or task.index in settings.get("kill_once", ()) and first(settings, task):
        os.kill(os.getpid(), signal.SIGKILL)
    if task.index == settings.get("stop") and first(settings, task):
        os.kill(settings.get("process", os.getpid()), settings["number"])


def first(settings: dict, task: Task) -> bool:
    """Whether this index was not here before."""
    try:
        open(os.path.join(settings["marks"], f"mark{task.index}"), "x").close()
    except FileExistsError:
        return False
    return True


def run(path, **keywords):
    """Search the toy space by evolution, with early stopping."""
    options = {"sampler_settings": POPULATION, "early_stopping": {"points": 1}, "seed": 5, "round_size": 6}
    options.update({"budget": 40, "settings": {"level": 1}, "say": lambda sentence: None, "sampler": "evolution"})
    options.update(keywords)
    sampler, settings = options.pop("sampler"), options.pop("settings")
    return search(options.pop("space", Toy()), sampler, FACTORY, settings, path=str(path), **options)


def lines(path) -> list[dict]:
    """The journal without the costs."""
    header, entries = read_journal(str(path))
    return [header, *({key: value for key, value in entry.items() if key != "cost"} for entry in entries)]


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    try:
        run(**json.loads(sys.argv[1]), say=lambda sentence: print(sentence, file=sys.stderr, flush=True))
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    except (KeyboardInterrupt, SystemExit) as stop:
        print(getattr(stop, "message", stop), file=sys.stderr)
        sys.exit(130)

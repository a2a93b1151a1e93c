"""The search: rounds of a fixed size, drawn, evaluated, journalled, and told to the sampler in order.

A journal is the same, its costs aside, whatever evaluates: what is drawn depends on what was told, and that happens
between rounds only. It is the same however often the search was killed: every line is on the disk before anything
follows from it, and a sampler's state is stored after every round, or follows from the journal.
"""

import contextlib
import logging
import math
import time
from collections.abc import Callable

from ..errors import UserError
from ..utils.stopping import StopRequest
from .evaluation import Task, limited_threads, task_seed
from .evaluators import Evaluator, evaluate_all, make_evaluator
from .journal import Journal, Recorded
from .progress import Progress, say, spent
from .samplers import Sampler, build_sampler
from .space import Space
from .state import load_state, save_state

__all__ = ["search"]

logger = logging.getLogger(__name__)

ALL_REJECTED = 1000  # architectures in a row; then there is nothing to search


def search(
    space: Space,
    sampler: str,
    factory: str,
    settings: dict,
    *,
    path: str,
    sampler_settings: dict | None = None,
    early_stopping: dict | None = None,
    seed: int = 0,
    round_size: int = 10,
    budget: int | None = None,
    hours: float | None = None,
    workers: int = 0,
    ray: str = "",
    threads: int = 1,
    local: dict | None = None,
    say: Callable[[str], None] = say,
) -> Recorded:
    """Search, or go on with the search of the journal at ``path``.

    Args:
        sampler: a name of :data:`~adet_ext.nas.samplers.NAMES`; ``sampler_settings`` are its keywords.
        factory: "package.module:function" that makes the evaluation; see :mod:`~adet_ext.nas.evaluation`.
        settings: ready for JSON; what the reward depends on. A journal of other settings is refused.
        early_stopping: keywords of :class:`~adet_ext.nas.early_stopping.EarlyStopping`; None stops nothing.
        round_size: architectures drawn at once. More keep more workers busy; fewer let the sampler learn sooner.
        budget: architectures in all, rejected ones aside. The round in which it is reached is finished.
        hours: of this run. The round in which they are over is finished.
        workers, ray, threads: see :func:`~adet_ext.nas.evaluators.make_evaluator`. ``threads`` is part of what the
            reward depends on.
        local: further settings for the factory which the reward does not depend on, such as a device or a folder.
        say: is told, in sentences, what happens; by default, they are printed on the standard error.

    Returns:
        What the journal then holds.

    Raises:
        UserError: nothing is spent, and nothing is changed: a value out of range, a journal of another search or one
            that another process writes, a Ray cluster that does not answer. Or the space rejects all that is drawn.
        KeyboardInterrupt, Terminated: Ctrl-C or SIGTERM, after the round in flight; a second one stops at once.
            Neither loses an evaluation that was finished.
    """
    _check(seed=seed, round_size=round_size, budget=budget, hours=hours, workers=workers, threads=threads)
    learner = build_sampler(sampler, space, seed, **(sampler_settings or {}))
    stopper = None
    if early_stopping is not None:
        from .early_stopping import EarlyStopping

        stopper = EarlyStopping(**early_stopping)
    header = {
        "space": space.to_json(),
        "sampler": {"name": sampler, **(sampler_settings or {})},
        "factory": factory,
        "settings": settings,
        "early_stopping": early_stopping,
        "seed": seed,
        "round": round_size,
        "threads": threads,
    }
    with Journal(path) as journal:
        journal.check(header)
        if journal.entries:
            say(f"going on with {path}: {len(journal.entries)} architectures, {_counts(journal.entries)}")
        if journal.entries and _has(journal, round_size, budget):
            say(f"nothing to do: {path} has the {budget} architectures of the budget; raise it to go on")
            journal.round_complete()
            return Recorded(journal.header, journal.entries)
        with limited_threads(threads):  # here too: the sums of the sampler are the same whatever evaluates
            handed = {**settings, **(local or {})}
            with contextlib.closing(
                make_evaluator(factory, handed, workers=workers, ray=ray, threads=threads)
            ) as evaluator:
                journal.begin(header)
                rounds = _Rounds(space, learner, stopper, journal, evaluator, seed, round_size)
                _run(rounds, budget, hours, say)
        return Recorded(journal.header, journal.entries)


def _check(*, seed: int, round_size: int, budget: int | None, hours: float | None, workers: int, threads: int) -> None:
    if budget is None and hours is None:
        raise UserError("A search must have a budget; got none. Give --budget or --hours.")
    whole = [("--seed", seed, 0), ("--round", round_size, 1), ("--workers", workers, 0), ("--threads", threads, 1)]
    for name, value, least in [*whole, ("--budget", 1 if budget is None else budget, 1)]:
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise UserError(f"{name} must be a whole number of at least {least}; got {value!r}.")
    if hours is not None and not (math.isfinite(hours) and hours > 0):
        raise UserError(f"--hours must be a number above 0; got {hours!r}.")


def _counts(entries: list[dict]) -> str:
    return f"{sum(entry['status'] == 'done' for entry in entries)} of them evaluated"


def _has(journal: Journal, round_size: int, budget: int | None) -> bool:
    """Whether a journal has the budget, and no round to be finished."""
    return budget is not None and spent(journal.entries) >= budget and len(journal.entries) % round_size == 0


def _run(rounds: "_Rounds", budget: int | None, hours: float | None, say: Callable[[str], None]) -> None:
    """Make rounds until the budget is spent or a signal comes."""
    journal, end = rounds.journal, math.inf if hours is None else time.monotonic() + 3600 * hours
    kept = f"{journal.path} has what was finished; the same command goes on"
    with StopRequest(
        patience=math.inf,
        say=say,
        promise="stopping after the round in flight; a second signal stops at once",
        cut=f"stopped within a round: {kept}",
    ) as stop:
        rounds.catch_up()
        progress = Progress(journal.entries, budget, hours)
        try:
            while not _has(journal, rounds.size, budget) and time.monotonic() < end:
                if stop.requested:
                    stop.stop(stop.requested, f"stopped after {len(journal.entries)} architectures: {kept}")
                rounds.make_one(progress.add)
        finally:
            progress.close()


class _Rounds:
    """Draws, evaluates, journals and tells, round by round."""

    def __init__(
        self,
        space: Space,
        sampler: Sampler,
        stopper,
        journal: Journal,
        evaluator: Evaluator,
        seed: int,
        size: int,
    ):
        self.space, self.sampler, self.stopper, self.journal = space, sampler, stopper, journal
        self.evaluator, self.seed, self.size = evaluator, seed, size
        self._first: dict[tuple[int, ...], int] = {}  # the index of the first architecture of each canonical form
        self._told = 0  # lines that the sampler knows
        self._tell_seconds = 0.0

    # Going on --------------------------------------------------------------------------------------------------------

    def catch_up(self) -> None:
        """Bring the sampler to where the whole rounds of the journal leave it."""
        entries = self.journal.entries
        for entry in entries:
            if entry["status"] in ("done", "failed"):
                self._first.setdefault(self.space.canonical(self.space.check(entry["tokens"])), entry["index"])
        whole = len(entries) // self.size * self.size
        state = load_state(self._state_path)
        if state is not None and self._fits(state, whole):
            self.sampler.load_state_dict(state["sampler"])
            if self.stopper is not None:
                self.stopper.load_state_dict(state["early_stopping"])
            self._told = state["lines"]
        replay = whole - self._told
        while self._told < whole:
            self._draw()
            self._tell()
        if replay:
            self._save()

    @property
    def _state_path(self) -> str:
        return self.journal.path + ".state"

    def _fits(self, state: dict, whole: int) -> bool:
        lines = state.get("lines", -1)
        return 0 <= lines <= whole and lines % self.size == 0 and state.get("journal") == self.journal.digest(lines)

    def _save(self) -> None:
        state = {"lines": self._told, "journal": self.journal.digest(self._told), "sampler": self.sampler.state_dict()}
        state["early_stopping"] = None if self.stopper is None else self.stopper.state_dict()
        save_state(self._state_path, state)

    # One round -------------------------------------------------------------------------------------------------------

    def make_one(self, tick: Callable[[dict], None]) -> None:
        """Make a round, or the rest of one; ``tick`` gets its new lines as they are written."""
        start = time.perf_counter()
        drawn = self._draw()
        sampler_cost = {
            "ask_seconds": round((time.perf_counter() - start) / self.size, 6),
            "tell_seconds": round(self._tell_seconds / self.size, 6),  # of the round before
        }
        lines = self._lines(drawn, sampler_cost)
        waiting = {i: line for i, line in self.journal.waiting().items() if line["tokens"] == list(drawn.get(i, ()))}
        lines.update(waiting)
        tasks = [
            Task(index, tokens, seed, self.stopper.thresholds(seed) if self.stopper else ())
            for index, tokens in drawn.items()
            if index not in lines and index >= len(self.journal.entries)
            for seed in [task_seed(self.seed, index)]
        ]
        self._append(lines, tick)
        for task, result in evaluate_all(self.evaluator, tasks):
            line = {**self._line(task.index, task.tokens, **result), "graph": self.space.graph(task.tokens)}
            line["cost"] |= sampler_cost
            lines[task.index] = line
            if task.index > len(self.journal.entries):
                self.journal.wait(line)
            self._append(lines, tick)
        self.journal.round_complete()
        start = time.perf_counter()
        self._tell()
        self._save()
        self._tell_seconds = time.perf_counter() - start

    def _draw(self) -> dict[int, tuple[int, ...]]:
        """Ask for the next round; the journal may have a part of it, or all."""
        asked = [self.space.check(tokens) for tokens in self.sampler.ask(self.size)]
        drawn = dict(enumerate(asked, self._told))
        for entry in self.journal.entries[self._told : self._told + self.size]:
            if tuple(entry["tokens"]) != drawn[entry["index"]]:
                raise UserError(
                    f"{self.journal.path}: architecture {entry['index']} must be the one that the sampler draws; it is "
                    "another one. Go on with the version and the machine that began, and with the file .state."
                )
        return drawn

    def _lines(self, drawn: dict[int, tuple[int, ...]], cost: dict) -> dict[int, dict]:
        """Return the lines of the architectures that need no evaluation, by their index."""
        lines = {}
        for index, tokens in drawn.items():
            if reason := self.space.why_rejected(tokens):
                lines[index] = self._line(index, tokens, status="rejected", error=reason, cost=dict(cost))
                continue
            first = self._first.setdefault(self.space.canonical(tokens), index)
            if first != index:  # its reward is filled in once it is there
                lines[index] = self._line(index, tokens, status="repeated", same_as=first, cost=dict(cost))
        return lines

    def _append(self, lines: dict[int, dict], tick: Callable[[dict], None]) -> None:
        """Write the lines whose turn it is."""
        entries = self.journal.entries
        while line := lines.get(len(entries)):
            if line["status"] == "repeated":
                line["reward"], line["stopped"] = (entries[line["same_as"]][key] for key in ("reward", "stopped"))
            self.journal.append(line)
            tick(line)

    def _line(self, index: int, tokens: tuple[int, ...], *, status: str, **values) -> dict:
        line = {"index": index, "tokens": list(tokens), "reward": None, "status": status, "error": "", "same_as": None}
        return {**line, "metrics": {}, "scores": [], "stopped": False, "graph": {}, "cost": {}, **values}

    def _tell(self) -> None:
        """Tell the sampler the round that it was last asked for."""
        told = self.journal.entries[self._told : self._told + self.size]
        self.sampler.tell([(tuple(entry["tokens"]), entry["reward"]) for entry in told])
        if self.stopper is not None:
            for entry in told:
                if entry["status"] == "done":
                    self.stopper.tell(tuple(entry["scores"]))
        self._told += len(told)
        last = self.journal.entries[-ALL_REJECTED:]
        if len(last) == ALL_REJECTED and not spent(last):
            raise UserError(
                f"A space must have architectures that are not rejected; {self.space.name} rejected the last "
                f"{ALL_REJECTED}: {last[-1]['error']}. Check its settings."
            )

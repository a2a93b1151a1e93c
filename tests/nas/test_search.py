"""Searches: one journal, whatever evaluates and whenever it was cut off; refusals before anything is spent."""

import itertools
import json
import os
import signal
import subprocess
import sys

import pytest
import torch

from adet_ext.errors import UserError
from adet_ext.nas import search as module
from adet_ext.nas.evaluators import evaluate_all
from adet_ext.nas.journal import Journal, read_journal
from adet_ext.nas.progress import Progress
from adet_ext.utils.stopping import Terminated

from . import toy


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The journal of a search that nothing disturbed, without the costs."""
    path = tmp_path_factory.mktemp("whole") / "journal.jsonl"
    toy.run(path)
    found = toy.lines(path)
    statuses = [line["status"] for line in found[1:]]
    assert len(statuses) >= 40 and len(statuses) % 6 == 0
    assert set(statuses) == {"done", "failed", "repeated"} and any(line["stopped"] for line in found[1:])
    return found


class Fixed:
    """A sampler that proposes a given list, over and over, and keeps what it is told."""

    def __init__(self, *proposals):
        self.proposals, self.told = proposals, []
        self.asked = 0

    def ask(self, n):
        self.asked += n
        return [self.proposals[i % len(self.proposals)] for i in range(self.asked - n, self.asked)]

    def tell(self, results):
        self.told += results

    def state_dict(self):
        return {"asked": self.asked}

    def load_state_dict(self, state):
        self.asked = state["asked"]


def with_sampler(monkeypatch, sampler):
    monkeypatch.setattr(module, "build_sampler", lambda *_, **__: sampler)
    return sampler


def test_a_line_says_what_was_found_and_what_it_cost(journal):
    entry = next(x for x in toy.run(journal).entries if x["status"] == "done" and not x["stopped"])
    assert entry["graph"] == toy.Toy().graph(entry["tokens"]) and entry["metrics"]["size"] == sum(entry["tokens"])
    cost = {"seconds", "cpu_seconds", "process", "peak_memory_mb", "finished", "worker", "ask_seconds", "tell_seconds"}
    assert set(entry["cost"]) == cost
    assert entry["scores"] == [entry["reward"] / 2] and entry["error"] == "" and entry["same_as"] is None


def test_a_pool_of_any_size_writes_the_journal_of_this_process(light_workers, journal, whole):
    for workers in (1, 3):
        toy.run(journal.with_name(f"{workers}.jsonl"), workers=workers, local={"seconds": 0.003})
        assert toy.lines(journal.with_name(f"{workers}.jsonl")) == whole
    assert not list(journal.parent.glob("*.waiting")) + list(journal.parent.glob("*.lock"))


def test_rejected_ones_cost_nothing_and_repeated_ones_reuse_the_reward(monkeypatch, journal):
    a, swapped, rejected, nan = (1, 0, 0, 1, 2), (1, 0, 0, 2, 1), (0, 0, 1, 1, 1), (2, 2, 0, 0, 0)
    sampler = with_sampler(monkeypatch, Fixed(a, rejected, swapped, nan))
    entries = toy.run(journal, budget=7, round_size=4, early_stopping=None).entries
    assert [x["status"] for x in entries[:4]] == ["done", "rejected", "repeated", "failed"]  # within a round
    assert [x["status"] for x in entries[4:8]] == ["repeated", "rejected", "repeated", "repeated"]
    assert len(entries) == 12  # 3 in a round count, and the round in which the budget is reached is finished
    reward = entries[0]["reward"]
    assert [x["reward"] for x in entries[:8]] == [reward, None, reward, None] * 2
    assert [x["same_as"] for x in entries[:8]] == [None, None, 0, None, 0, None, 0, 3]
    assert entries[1]["error"] == "it starts with a a" and "seconds" not in entries[1]["cost"] | entries[2]["cost"]
    assert sampler.told[:4] == [(a, reward), (rejected, None), (swapped, reward), (nan, None)]


def test_a_space_that_rejects_all_ends_the_search(monkeypatch, journal):
    with_sampler(monkeypatch, Fixed((0, 0, 1, 1, 1)))
    monkeypatch.setattr(module, "ALL_REJECTED", 20)
    with pytest.raises(UserError, match="toy rejected the last 20: it starts with a a. Check its settings."):
        toy.run(journal, budget=1)


def test_a_larger_budget_goes_on_and_says_so(journal, whole):
    said = []
    toy.run(journal, budget=12, say=said.append)
    assert not said and len(read_journal(str(journal)).entries) == 12
    toy.run(journal, budget=40, say=said.append)
    assert len(said) == 1 and said[0].startswith(f"going on with {journal}: 12 architectures, ")
    assert toy.lines(journal) == whole
    before = journal.read_bytes()
    toy.run(journal, budget=40, say=said.append)
    assert "nothing to do" in said[-1] and journal.read_bytes() == before


@pytest.mark.parametrize("damage", ["missing", "broken", "of another journal", "of a later line"])
def test_without_a_state_that_fits_the_sampler_learns_from_the_journal(journal, whole, damage):
    toy.run(journal, budget=18)
    state = journal.with_name("journal.jsonl.state")
    if damage == "missing":
        state.unlink()
    elif damage == "broken":
        state.write_bytes(b"PK\x03\x04 not an archive")
    elif damage == "of another journal":
        toy.run(journal.with_name("other.jsonl"), budget=18, seed=6)
        state.write_bytes(journal.with_name("other.jsonl.state").read_bytes())
    else:
        lines = journal.read_bytes().splitlines(keepends=True)
        journal.write_bytes(b"".join(lines[:11]))  # ten architectures: a round, and a part of one
    toy.run(journal)
    assert toy.lines(journal) == whole


def test_the_controller_goes_on_as_if_never_stopped(journal):
    options = {"sampler": "controller", "sampler_settings": {}, "round_size": 4}
    toy.run(journal.with_name("whole.jsonl"), budget=12, **options)
    for budget in (1, 5, 9, 12):
        if budget == 9:
            journal.with_name("journal.jsonl.state").unlink()  # and also where it learns from the journal
        toy.run(journal, budget=budget, **options)
    assert toy.lines(journal) == toy.lines(journal.with_name("whole.jsonl"))
    state = torch.load(journal.with_name("journal.jsonl.state"), weights_only=True)
    assert state["lines"] == 12


class Killed(BaseException):
    pass


def backwards(evaluator, tasks):
    """Evaluate the last of a round first, so that the others' lines have to wait."""
    yield from evaluate_all(evaluator, tasks[::-1])


def test_every_write_can_be_the_last(journal, whole, monkeypatch):
    real = {name: getattr(os, name) for name in ("write", "replace", "remove")}
    calls, limit = 0, None

    def call(name):
        def do(*arguments, **keywords):
            nonlocal calls
            if arguments[0] is not None and b"lock" not in os.fsencode(str(arguments[0])):
                calls += 1
                if calls == limit:
                    if name == "write":
                        real["write"](arguments[0], arguments[1][: calls * 7 % len(arguments[1])])
                    raise Killed
            return real[name](*arguments, **keywords)

        return do

    for name in real:
        monkeypatch.setattr(os, name, call(name))
    monkeypatch.setattr(os, "fsync", lambda file: None)  # it takes a millisecond
    monkeypatch.setattr(module, "evaluate_all", backwards)  # so that evaluations wait for an earlier one
    for start in itertools.count(1):
        path, limit, kills, calls = journal.with_name(f"{start}.jsonl"), start, 0, 0
        while True:
            try:
                toy.run(path, budget=7)
                break
            except Killed:
                kills += 1
                calls, limit = 0, start % 9 + 7 * kills  # the next one comes somewhere else
        assert toy.lines(path) == whole[:13]
        if not kills:
            break
    assert start > 30


def test_a_journal_of_another_search_is_refused_before_anything_is_spent(journal):
    toy.run(journal, budget=6)
    before = {path: path.read_bytes() for path in journal.parent.iterdir()}
    for other, said in [
        ({"seed": 6}, "seed is 5 in the journal and 6 now"),
        ({"settings": {"level": 2}}, "settings.level is 1 in the journal and 2 now"),
        ({"round_size": 7}, "round is 6 in the journal and 7 now"),
        ({"sampler": "random", "sampler_settings": {}}, 'sampler.name is "evolution" in the journal and "random" now'),
        ({"early_stopping": None}, "early_stopping is "),
        ({"threads": 2}, "threads is 1 in the journal and 2 now"),
    ]:
        with pytest.raises(UserError) as error:
            toy.run(journal, **other, local={"broken": "the factory was called"})
        assert said in str(error.value)
    assert {path: path.read_bytes() for path in journal.parent.iterdir()} == before


def test_tokens_that_the_sampler_does_not_draw_are_refused(journal):
    toy.run(journal, budget=6)
    journal.with_name("journal.jsonl.state").unlink()
    tokens = f'"tokens": {read_journal(str(journal)).entries[3]["tokens"]}'
    journal.write_text(journal.read_text().replace(tokens, '"tokens": [3, 1, 3, 1, 3]'))
    with pytest.raises(UserError, match="architecture 3 must be the one that the sampler draws"):
        toy.run(journal)


@pytest.mark.parametrize(
    "options, said",
    [
        ({"budget": None}, "Give --budget or --hours"),
        ({"budget": 0}, "--budget must be a whole number of at least 1; got 0"),
        ({"hours": 0.0}, "--hours must be a number above 0; got 0.0"),
        ({"round_size": 0}, "--round must be"),
        ({"workers": -1}, "--workers must be"),
        ({"threads": 0}, "--threads must be"),
        ({"sampler": "grid"}, "must be one of controller, evolution, genetic"),
        ({"sampler_settings": {"size": 3}}, "setting of the sampler evolution must be one of"),
        ({"local": {"broken": "there are no images"}}, "there are no images"),
    ],
)
def test_what_cannot_be_is_a_sentence_and_leaves_no_journal(journal, options, said):
    with pytest.raises(UserError, match=said):
        toy.run(journal, **options)
    assert not journal.exists()


def test_a_user_error_in_an_evaluation_ends_the_search_which_can_go_on(journal, whole):
    with pytest.raises(UserError, match="must have images"):
        toy.run(journal, local={"wrong": [8]})
    # Architecture 6 fails at first, so that the next one's line waits.
    assert len(read_journal(str(journal)).entries) == 6
    assert b'"index": 7' in journal.with_name("journal.jsonl.waiting").read_bytes()
    with pytest.raises(UserError):  # 7 is not evaluated again
        toy.run(journal, local={"wrong": [8], "kill": [7]})
    toy.run(journal)
    assert toy.lines(journal) == whole


@pytest.mark.parametrize("number, expected", [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Terminated)])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_signal_ends_the_search_after_the_round_in_flight(
    light_workers, journal, whole, tmp_path, number, expected, workers
):
    said = []
    stop = {"stop": 8, "number": number, "marks": str(tmp_path), "process": os.getpid()}
    with pytest.raises(expected) as stopped:
        toy.run(journal, local=stop, workers=workers, say=said.append)
    assert said == [f"{number.name}: stopping after the round in flight; a second signal stops at once"]
    text = getattr(stopped.value, "message", str(stopped.value))
    assert text == f"stopped after 12 architectures: {journal} has what was finished; the same command goes on"
    assert len(read_journal(str(journal)).entries) == 12
    toy.run(journal)
    assert toy.lines(journal) == whole


def test_a_second_signal_stops_at_once_and_loses_nothing_finished(journal, whole):
    options = {"path": str(journal), "budget": 40, "local": {"seconds": 0.4}, "workers": 1}
    words = [sys.executable, toy.__file__, json.dumps(options)]
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True, start_new_session=True)
    while not journal.exists() or journal.read_bytes().count(b"\n") < 3:
        assert process.poll() is None
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does, to the workers too
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(1.05)
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=10)
    assert process.returncode == 130 and "stopped within a round" in said and "Traceback" not in said
    entries = read_journal(str(journal)).entries
    assert 3 <= len(entries) < 6
    toy.run(journal)
    assert toy.lines(journal) == whole and toy.lines(journal)[1:][:3] == whole[1:4]


def test_hours_end_the_search_after_a_round(monkeypatch, journal):
    entries = toy.run(journal, budget=None, hours=1e-9).entries
    assert entries == []
    assert len(toy.run(journal, budget=None, hours=0.02 / 3600, local={"seconds": 0.02}).entries) == 6


def test_an_interrupted_search_holds_no_lock(journal):
    with pytest.raises(UserError):
        toy.run(journal, local={"wrong": [0]})
    Journal(str(journal)).close()


def test_the_progress_line_has_rate_best_and_time_left(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("adet_ext.nas.progress.time.monotonic", lambda: now[0])
    progress = Progress([{"status": "done", "reward": 0.5}], budget=21)
    assert progress.text() == "0 an hour, best 0.5"
    for reward in (0.25, 0.75):
        now[0] += 36.0
        progress.add({"status": "done", "reward": reward})
    progress.add({"status": "rejected", "reward": None})
    assert progress.text() == "100 an hour, best 0.75, 10 min 48 s left"
    progress.close()
    assert Progress([], hours=2).text() == "0 an hour, 2 h 00 min left"

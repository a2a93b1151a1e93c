"""The arguments of all searches, and the verb that shows a journal."""

import argparse
import json

import pytest

from adet_ext import cli
from adet_ext.errors import UserError
from adet_ext.nas.driver import add_search_arguments, search_from_arguments
from adet_ext.nas.journal import Journal, read_journal
from adet_ext.nas.summary import summarize

from . import toy


def from_words(*words, **options):
    parser = argparse.ArgumentParser()
    add_search_arguments(parser)
    settings = {"sampler_settings": {"evolution": toy.POPULATION}, "early_stopping": toy.STOPPING, **options}
    return search_from_arguments(parser.parse_args(words), toy.Toy(), toy.FACTORY, {"level": 1}, **settings)


WORDS = ("--budget", "40", "--sampler", "evolution", "--seed", "5", "--round", "6")


def test_arguments_make_the_search_that_they_say(tmp_path, capfd):
    found = from_words(*WORDS, "--output", str(tmp_path / "search"), "--best", "2")
    toy.run(tmp_path / "same.jsonl")
    path = tmp_path / "search" / "journal.jsonl"
    assert toy.lines(path) == toy.lines(tmp_path / "same.jsonl") and found == read_journal(str(path))
    out, err = capfd.readouterr()
    assert out.startswith(
        f"{path}: toy by evolution, seed 5; no search is running\narchitectures: {len(found.entries)} "
    )
    best = max((x for x in found.entries if x["status"] == "done"), key=lambda x: x["reward"])
    assert f"\narchitecture {best['index']}: {toy.Toy().text(best['tokens'])}" in out
    rows = [line.split() for line in out.splitlines() if " size " in line]
    assert " an hour, best " in err and len(rows) == 2 and rows[0][0] == str(best["index"]) and out.count("d0=") == 1


def test_the_same_command_goes_on_and_other_settings_are_refused(tmp_path, capfd):
    words = (*WORDS, "--output", str(tmp_path))
    from_words(*words[2:], "--budget", "6")
    from_words(*words)
    assert "going on with" in capfd.readouterr().err
    with pytest.raises(UserError, match="seed is 5 in the journal and 6 now"):
        from_words(*words, "--seed", "6")
    with pytest.raises(UserError, match="must have a budget; got none. Give --budget or --hours"):
        from_words("--output", str(tmp_path))


def test_show_prints_a_journal_also_while_it_is_written(tmp_path, capsys):
    path = tmp_path / "journal.jsonl"
    toy.run(path)
    with Journal(str(path)):
        assert cli.main(["search", "show", str(tmp_path)]) == 0
        assert "is searching" in capsys.readouterr().out
    path.write_bytes(path.read_bytes()[:-5])  # a line that is being written
    assert cli.main(["search", "show", str(path), "--json", "--best", "3"]) == 0
    shown = json.loads(capsys.readouterr().out)
    entries = read_journal(str(path)).entries
    assert len(shown["best"]) == 3 and sum(shown["counts"].values()) == len(entries)
    rewards = [x["reward"] for x in entries if x["status"] == "done"]
    assert [x["reward"] for x in shown["best"]] == sorted(rewards)[:-4:-1]


def test_a_summary_adds_up_costs(tmp_path):
    path = tmp_path / "journal.jsonl"
    entries = toy.run(path, local={"seconds": 0.002}).entries
    found = summarize(str(path))
    evaluated = [x for x in entries if "seconds" in x["cost"]]
    assert found["seconds"]["evaluation"] == pytest.approx(sum(x["cost"]["seconds"] for x in evaluated))
    assert found["seconds"]["evaluation"] >= 0.002 * len(evaluated) and 0 < found["sampler_share"] < 1
    assert found["counts"]["done"] == sum(x["status"] == "done" for x in entries)
    rewards = [x["reward"] for x in entries if x["reward"] is not None]
    half = len(rewards) // 2
    assert found["window"] == half and found["mean_first"] == pytest.approx(sum(rewards[:half]) / half)
    assert found["mean_last"] == pytest.approx(sum(rewards[-half:]) / half)


@pytest.mark.parametrize("content", [None, "a word\n", '{"format": 1, "space": {"name": "s", "decisions": []}}\n'])
def test_what_cannot_be_shown_is_one_sentence(tmp_path, capsys, content):
    if content:
        (tmp_path / "journal.jsonl").write_text(content)
    assert cli.main(["search", "show", str(tmp_path)]) == 2
    err = capsys.readouterr().err
    assert err.startswith("adet_ext search: ") and err.count("\n") == 1


def test_a_journal_with_a_header_alone_is_shown(tmp_path, capsys):
    path = tmp_path / "journal.jsonl"
    toy.run(path, budget=6)
    path.write_bytes(path.read_bytes().splitlines(keepends=True)[0])
    assert cli.main(["search", "show", str(path)]) == 0
    assert "architectures: 0 (none yet)" in capsys.readouterr().out

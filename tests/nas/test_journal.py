"""Journals: whole lines or none, one writer, one search, and readable at any time."""

import json
import os
import subprocess
import sys

import pytest

from adet_ext.errors import UserError
from adet_ext.nas.journal import Journal, first_difference, read_journal
from adet_ext.utils.lock import FileLock, holder

from . import light

HEADER = {"space": {"name": "s", "decisions": []}, "sampler": {"name": "random"}}
HEADER.update({"settings": {"depth": 3, "sizes": [1, 2]}, "seed": 0, "round": 2})


def entry(index, **values):
    return {"index": index, "tokens": [index], "reward": index / 3, "status": "done", "error": "", **values}


def written(path, count=3):
    with Journal(str(path)) as journal:
        journal.begin(HEADER)
        for index in range(count):
            journal.append(entry(index))
    return path.read_bytes()


def test_a_journal_gives_back_what_was_written(journal):
    written(journal)
    header, entries = read_journal(str(journal))
    assert header == {"format": 1, **HEADER} and entries == [entry(i) for i in range(3)]
    assert [x.name for x in journal.parent.iterdir()] == ["journal.jsonl"]


def test_a_journal_cut_at_any_byte_keeps_its_whole_lines(journal, caplog, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda file: None)  # it takes a millisecond
    data = written(journal)
    ends = [i + 1 for i, byte in enumerate(data) if byte == ord("\n")]
    for length in range(ends[0], len(data)):
        journal.write_bytes(data[:length])
        whole = sum(end <= length for end in ends) - 1
        assert len(read_journal(str(journal)).entries) == whole  # a reader changes nothing
        caplog.clear()
        with Journal(str(journal)) as opened:
            opened.begin(HEADER)
            assert len(opened.entries) == whole
            assert ("its last line was cut off" in caplog.text) == (length not in ends)
            for index in range(whole, 3):
                opened.append(entry(index))
        assert journal.read_bytes() == data


def test_a_last_line_of_rubbish_is_dropped_and_one_in_the_middle_refused(journal):
    data = written(journal)
    journal.write_bytes(data + bytes(100) + b"\n")  # what a loss of power can leave
    assert len(read_journal(str(journal)).entries) == 3
    first, second, *rest = data.splitlines(keepends=True)
    journal.write_bytes(b"".join([first, second[:-9] + b"\n", *rest]))
    for read in (read_journal, Journal):
        with pytest.raises(UserError, match=r"journal.jsonl: .* line 2 is not JSON. Restore it"):
            read(str(journal))
    journal.write_bytes(b"".join([first, *rest]))
    with pytest.raises(UserError, match="line 2 must be architecture 0"):
        Journal(str(journal))


@pytest.mark.parametrize("content", [b"notes\n", b"notes", b"one\ntwo\n", b"{}\n", b'{"format": 9}\n', b"[1]\n"])
def test_a_file_that_is_no_journal_is_refused_and_kept(journal, content):
    journal.parent.mkdir()
    journal.write_bytes(content)
    for read in (read_journal, Journal):
        with pytest.raises(UserError, match="must be the journal of a search"):
            read(str(journal))
    assert journal.read_bytes() == content and os.listdir(journal.parent) == ["journal.jsonl"]


def test_another_search_s_journal_is_refused_with_the_first_difference(journal):
    data = written(journal)
    other = json.loads(json.dumps(HEADER))
    other["settings"]["sizes"][1] = 5
    with Journal(str(journal)) as opened, pytest.raises(UserError) as error:
        opened.begin(other)
    assert "settings.sizes[1] is 2 in the journal and 5 now. Give the same settings" in str(error.value)
    assert journal.read_bytes() == data


@pytest.mark.parametrize(
    "before, now, said",
    [
        ({"a": 1}, {"a": 1}, ""),
        ({"a": 1}, {"a": 1.0}, ""),
        ({"a": 1}, {"a": True}, "a is 1 in the journal and true now"),
        ({"a": [1]}, {"a": [1, 2]}, "a is [1] in the journal and [1, 2] now"),
        ({"a": {"b": 1}}, {"a": {"c": 1}}, "a.b is 1 in the journal and missing now"),
        ({}, {"a": None}, "a is missing in the journal and null now"),
        ({"x": {"a": 1}, "b": 1}, {"b": 2, "x": {"a": 2}}, "x.a is 1 in the journal and 2 now"),
    ],
)
def test_differences_are_named_from_the_first_key_on(before, now, said):
    assert first_difference(before, now) == said


def test_a_second_search_on_a_journal_is_refused(journal):
    written(journal)
    code = f"import tests.nas.light; from adet_ext.nas.journal import Journal; Journal({str(journal)!r})"
    with Journal(str(journal)) as opened:
        opened.begin(HEADER)
        assert holder(str(journal) + ".lock") == f"process {os.getpid()}"
        with pytest.raises(UserError, match="one search at a time; this process writes it"):
            Journal(str(journal))
        done = subprocess.run([sys.executable, "-c", code], cwd=light.ROOT, capture_output=True, text=True, timeout=60)
        assert f"UserError: {journal}: must be written by one search at a time; process {os.getpid()} " in done.stderr
        opened.append(entry(3))  # the refused ones left it as it was
    assert holder(str(journal) + ".lock") == ""
    with Journal(str(journal)) as opened:
        assert len(opened.entries) == 4


def test_the_lock_of_a_killed_process_is_free(tmp_path):
    path = str(tmp_path / "lock")
    code = (
        "import os, tests.nas.light; from adet_ext.utils.lock import FileLock\n"
        f"lock = FileLock({path!r}); os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=light.ROOT, timeout=60).returncode == -9
    assert os.path.exists(path) and holder(path) == ""
    FileLock(path).close()
    assert not os.path.exists(path)


def test_what_waits_survives_and_is_gone_when_the_round_is_complete(journal):
    with Journal(str(journal)) as opened:
        opened.begin(HEADER)
        opened.wait(entry(2))
        opened.wait(entry(1))
    side = journal.with_name("journal.jsonl.waiting")
    side.write_bytes(side.read_bytes() + b'{"index": 3, "tok')  # killed while it was written
    with Journal(str(journal)) as opened:
        opened.begin(HEADER)
        assert opened.waiting() == {1: entry(1), 2: entry(2)}
        opened.append(entry(0))
        opened.append(entry(1))
        opened.wait(entry(3))
        assert opened.waiting() == {2: entry(2), 3: entry(3)}
        opened.round_complete()
        assert opened.waiting() == {} and not side.exists()


def test_what_waits_for_another_journal_is_not_used(journal):
    with Journal(str(journal)) as opened:
        opened.begin(HEADER)
        opened.wait(entry(1))
    journal.unlink()
    with Journal(str(journal)) as opened:
        opened.begin({**HEADER, "seed": 1})
        assert opened.waiting() == {}


def test_a_full_disk_is_a_sentence_and_leaves_whole_lines(journal, monkeypatch):
    data = written(journal)
    real = os.write

    def full(file, line):
        if len(line) < 20:
            raise OSError(28, "No space left on device")
        return real(file, line[:-15])

    with Journal(str(journal)) as opened:
        opened.begin(HEADER)
        monkeypatch.setattr(os, "write", full)
        with pytest.raises(UserError, match=r"journal.jsonl: cannot be written: the disk at .* is full"):
            opened.append(entry(3))
    assert journal.read_bytes() == data


def test_a_header_that_json_cannot_hold_is_an_error_before_anything_is_written(journal):
    with Journal(str(journal)) as opened, pytest.raises(ValueError):
        opened.begin({**HEADER, "settings": {"rate": float("nan")}})
    assert not journal.exists()

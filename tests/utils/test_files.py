"""Files written beside and renamed, folders that cannot be written to, and what a disk's errors are called."""

import errno
import os

import pytest

from adet_ext.errors import UserError
from adet_ext.utils.files import disk_problem, make_folder, written_beside


def test_a_whole_file_replaces_the_old_one(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("old")
    for durable in (False, True):
        with written_beside(str(path), durable=durable) as beside:
            assert beside.endswith(".json") and os.path.dirname(beside) == str(tmp_path)
            with open(beside, "w") as file:
                file.write(f"new {durable}")
            assert path.read_text() != f"new {durable}"
        assert path.read_text() == f"new {durable}" and os.listdir(tmp_path) == ["a.json"]
    with written_beside(str(path), suffix=".tmp") as beside:
        assert beside.endswith(".tmp")
        open(beside, "w").close()


def fails(number):
    """As torch reports it: a RuntimeError raised while the system's error is handled."""
    try:
        raise OSError(number, os.strerror(number))
    except OSError:
        raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 704 vs 598")  # noqa: B904


@pytest.mark.parametrize(
    "number, words",
    [
        (errno.ENOSPC, "the disk at .* is full. Free some space"),
        (errno.EROFS, "the disk at .* is read-only"),
        (errno.EACCES, "this user may not write to"),
        (errno.EFBIG, "larger than the limit"),
        (errno.EIO, "input/output error"),
    ],
)
def test_a_failed_write_names_the_disk_and_leaves_the_old_file(tmp_path, number, words):
    path = tmp_path / "model.pth"
    path.write_text("old")
    with pytest.raises(UserError, match=f"model.pth: cannot be written: .*{words}") as error:
        with written_beside(str(path)) as beside:
            open(beside, "w").close()
            fails(number)
    assert "unexpected pos" not in str(error.value)
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["model.pth"]


def test_other_errors_and_sentences_pass_through(tmp_path):
    for error in (ValueError("mine"), UserError("a sentence"), KeyboardInterrupt()):
        with pytest.raises(type(error)) as raised, written_beside(str(tmp_path / "x")) as beside:
            open(beside, "w").close()
            raise error
        assert raised.value is error and not os.listdir(tmp_path)
    assert disk_problem("x", ValueError("mine")) == ""


def test_a_folder_that_is_a_file_is_said_with_its_key(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "below" / "it"):
        with pytest.raises(UserError, match=f"^OUTPUT_DIR is {path}, which cannot be written to: .*file is a file"):
            make_folder(str(path), "OUTPUT_DIR")
    assert make_folder(str(tmp_path / "new" / "one")) == str(tmp_path / "new" / "one")
    assert os.listdir(tmp_path / "new" / "one") == []
    with pytest.raises(UserError, match="cannot be written to"):
        make_folder("a\0b")


def test_a_full_disk_is_found_before_anything_is_written(tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("builtins.open", full)
    with pytest.raises(UserError, match="the disk at .* is full"):
        make_folder(str(tmp_path))

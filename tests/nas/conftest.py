"""What the tests of the search core share."""

import sys
import types

import pytest

from . import light


@pytest.fixture
def light_workers(monkeypatch):
    """Let worker processes start without the rest of the package, which takes them seconds."""
    main = types.ModuleType("__main__")
    main.__file__ = light.__file__
    main.__spec__ = None
    monkeypatch.setitem(sys.modules, "__main__", main)


@pytest.fixture
def journal(tmp_path):
    """The place of a journal."""
    return tmp_path / "search" / "journal.jsonl"

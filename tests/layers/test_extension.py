"""Loading of the compiled operators: what is loaded, and what is said where nothing is."""

import logging

import pytest
import torch

from adet_ext.layers import extension


@pytest.fixture
def fresh():
    """status() answers once per process; these tests ask it anew."""
    extension.status.cache_clear()
    yield
    extension.status.cache_clear()


def test_status_is_one_answer_with_a_reason():
    found = extension.status()
    assert extension.status() is found and found.reason
    assert bool(found.operators) == found.loaded


def test_a_loaded_library_tells_how_it_was_built():
    found = extension.status()
    if not found.loaded:
        pytest.skip(f"no compiled operators here: {found.reason}")
    assert {"compiler", "built_with_torch", "runs_on_torch", "cuda"} <= set(found.build)
    assert "build_info" in extension.native_operators()
    assert torch.ops.adet_ext.build_info().startswith("compiler=")


def test_the_reference_can_be_insisted_on(fresh, monkeypatch):
    monkeypatch.setenv("ADET_EXT_OPS", "reference")
    assert not extension.status().loaded and extension.native_operators() == []


def test_a_wrong_wish_is_named(fresh, monkeypatch):
    monkeypatch.setenv("ADET_EXT_OPS", "fast")
    with pytest.raises(ValueError, match="ADET_EXT_OPS must be .*; got 'fast'"):
        extension.status()


def test_a_library_that_does_not_load_gives_one_warning_with_the_reason(fresh, monkeypatch, tmp_path, caplog):
    (tmp_path / "_C.so").write_bytes(b"no library at all")
    monkeypatch.setattr(extension, "_PACKAGE", tmp_path)
    monkeypatch.delenv("ADET_EXT_OPS", raising=False)
    with caplog.at_level(logging.WARNING):
        first = extension.status()
        extension.status()
    assert not first.loaded and first.reason
    assert len(caplog.records) == 1 and first.reason in caplog.text and "references" in caplog.text


def test_a_torch_older_than_the_stable_abi_is_refused_before_loading(monkeypatch):
    monkeypatch.setattr(torch, "__version__", "2.6.0")
    found = extension._load("nowhere.so")
    assert not found.loaded and "torch >= 2.10" in found.reason and "2.6.0" in found.reason


def test_torch_versions_are_compared_as_numbers(monkeypatch):
    monkeypatch.setattr(torch, "__version__", "2.9.1+cu128")
    assert "torch >= 2.10" in extension._load("nowhere.so").reason


def test_the_note_of_the_installation_is_the_reason_where_nothing_was_built(tmp_path):
    assert "pip install" in extension._why_not_built(tmp_path)
    (tmp_path / "_build.txt").write_text("no compiled operators: there is no C++ compiler\n")
    assert extension._why_not_built(tmp_path) == "there is no C++ compiler"

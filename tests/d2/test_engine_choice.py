"""Which engine is on, why, and that the door gives the same names on both."""

import importlib
import os
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import adet_ext.d2

PACKAGE = Path(adet_ext.d2.__file__).resolve().parent.parent
# Imports the door without the rest of the package, which a question about the engine does not need.
DOOR_ONLY = (
    "import sys, types; package = types.ModuleType('adet_ext'); "
    f"package.__path__ = [{str(PACKAGE)!r}]; sys.modules['adet_ext'] = package; "
)


def run(code: str, wish: str, path: Path | None = None) -> subprocess.CompletedProcess:
    environment = {**os.environ, "ADET_EXT_ENGINE": wish}
    if path is not None:
        environment["PYTHONPATH"] = str(path)
    return subprocess.run(
        [sys.executable, "-c", DOOR_ONLY + code], env=environment, capture_output=True, text=True, timeout=120
    )


@pytest.fixture
def broken_detectron2(tmp_path):
    package = tmp_path / "detectron2"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "_C.py").write_text("raise ImportError('undefined symbol: _ZN2at')\n")
    return tmp_path


def test_an_unknown_wish_is_answered_with_the_choices():
    result = run("import adet_ext.d2", "tensorflow")
    assert "must be auto, detectron2 or embedded; got " in result.stderr.splitlines()[-1]


def test_auto_goes_on_without_detectron2():
    code = "sys.modules['detectron2'] = None; import adet_ext.d2 as d2; print(d2.ENGINE, '|', d2.REASON)"
    result = run(code, "auto")
    assert result.stdout.strip() == "embedded | Detectron2 is not installed"


def test_a_broken_detectron2_is_named_with_its_error_and_auto_goes_on(broken_detectron2):
    result = run("import adet_ext.d2 as d2; print(d2.ENGINE)", "auto", broken_detectron2)
    assert result.stdout.strip() == "embedded"
    assert "undefined symbol: _ZN2at" in result.stderr


def test_insisting_on_a_broken_detectron2_fails_with_its_error(broken_detectron2):
    result = run("import adet_ext.d2", "detectron2", broken_detectron2)
    assert result.returncode != 0
    assert "undefined symbol: _ZN2at" in result.stderr.splitlines()[-1]


def test_the_embedded_engine_imports_nothing_of_detectron2():
    doors = [name for _, name, _ in pkgutil.iter_modules([str(PACKAGE / "d2")]) if name not in ("deform", "embedded")]
    code = "; ".join(f"import adet_ext.d2.{name}" for name in doors)
    result = run(code + "; print([name for name in sys.modules if name.startswith('detectron2')])", "embedded")
    assert result.stdout.strip() == "[]", result.stderr


@pytest.mark.parametrize("door", ["config", "layers", "modeling", "structures"])
def test_a_door_gives_every_name_that_it_lists(door):
    module = importlib.import_module(f"adet_ext.d2.{door}")
    embedded = importlib.import_module(f"adet_ext.d2.embedded.{door}")
    for name in module.__all__:
        assert hasattr(module, name)
        assert hasattr(embedded, name) or name == "read_checkpoint"  # the same file serves both engines


def test_detectron2_is_imported_at_the_door_only():
    importing = re.compile(r"^\s*(from|import) +detectron2\b", re.MULTILINE)
    doors = set((PACKAGE / "d2").glob("*.py"))
    for file in set(PACKAGE.rglob("*.py")) - doors:
        assert not importing.search(file.read_text()), file


# Leaves below the door: they import nothing of the package but one another.
LEAVES = "errors", "utils.deform_conv", "utils.files", "utils.observed", "utils.stopping"


def test_the_door_imports_nothing_of_the_package_above_it():
    upward = re.compile(r"^\s*(from|import) +(adet_ext\.(?!d2\b)|adet_ext +import +(?!d2\b))", re.MULTILINE)
    leaves = "|".join(re.escape(leaf) for leaf in LEAVES)
    for file in (PACKAGE / "d2").rglob("*.py"):
        depth = len(file.relative_to(PACKAGE).parts)
        relative = re.compile(rf"^\s*from +\.{{{depth},}}(?!({leaves}) )\w", re.MULTILINE)
        assert not upward.search(file.read_text()), file
        assert not relative.search(file.read_text()), file
    for leaf in LEAVES:
        text = (PACKAGE / f"{leaf.replace('.', '/')}.py").read_text()
        assert not upward.search(text) and not re.search(
            r"^\s*from +\.+(?!(errors|observed) )\w", text, re.MULTILINE
        ), leaf

"""Passive waiting is set for the package's commands and for no other program."""

import os
import subprocess
import sys

import pytest

from adet_ext.utils.threads import is_command, wait_passively

PRINT = "import os; print('policy', os.environ.get('OMP_WAIT_POLICY'), os.environ.get('GOMP_SPINCOUNT'))"


def policy(words, **environment) -> str:
    kept = {k: v for k, v in os.environ.items() if k not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")}
    done = subprocess.run([sys.executable, *words], env={**kept, **environment}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return next(line for line in done.stdout.splitlines() if line.startswith("policy "))


@pytest.fixture
def program(tmp_path):
    """A package that imports this one, started by its name; and a command that prints the environment at its end."""
    (tmp_path / "other").mkdir()
    (tmp_path / "other/__init__.py").write_text(f"import adet_ext\n{PRINT}\n")
    (tmp_path / "other/__main__.py").write_text("")
    path = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
    (tmp_path / "sitecustomize.py").write_text(
        f"import atexit, sys\ndef show():\n    {PRINT}\n"
        "if sys.orig_argv[-1] == '--version':\n    atexit.register(show)\n"
    )
    return {"PYTHONPATH": path}


def test_a_command_waits_passively(program):
    assert policy(["-m", "adet_ext", "--version"], **program) == "policy passive 1000"


@pytest.mark.parametrize("name", ["OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"])
def test_what_the_user_has_set_stays(monkeypatch, name):
    for variable in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv(name, "5")
    wait_passively()
    assert os.environ[name] == "5" and (name == "OMP_WAIT_POLICY" or "OMP_WAIT_POLICY" not in os.environ)


def test_the_console_script_is_a_command_and_a_user_script_is_not(monkeypatch):
    for program, expected in (("/usr/bin/adet-ext", True), ("train.py", False), ("-c", False)):
        monkeypatch.setattr(sys, "argv", [program, "adet_ext"])
        assert is_command() == expected


def test_importing_the_package_leaves_the_environment_alone(program):
    assert policy(["-c", f"import adet_ext; {PRINT}"], **program) == "policy None None"
    assert policy(["-m", "other", "adet_ext"], **program) == "policy None None"

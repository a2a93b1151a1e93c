"""The frame of the command line: verbs, help, and errors as sentences."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from adet_ext import __version__, cli
from adet_ext.errors import UserError
from adet_ext.utils.stopping import Terminated

ROOT = Path(__file__).resolve().parents[2]
TOOLS = {"train_net.py": "train", "demo.py": "demo"}


@pytest.fixture
def verb(monkeypatch):
    """A verb of its own, whose ``main`` is given."""

    def install(main):
        monkeypatch.setitem(sys.modules, "adet_ext.cli.probe", SimpleNamespace(main=main))
        monkeypatch.setitem(cli.VERBS, "probe", "for tests")

    return install


def raising(error):
    def main(argv):
        raise error

    return main


def test_help_names_every_verb_and_exits_well(capsys):
    assert cli.main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(f"  {name} " in out for name in cli.VERBS)


def test_no_verb_at_all_is_help_and_a_failure(capsys):
    assert cli.main([]) == 2
    assert "usage:" in capsys.readouterr().out


def test_version_is_the_package_s(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == f"adet_ext {__version__}"


@pytest.mark.parametrize("wrong, hint", [("trian", "did you mean train?"), ("zzz", "the verbs are train, eval")])
def test_an_unknown_verb_is_one_sentence(wrong, hint, capsys):
    assert cli.main([wrong]) == 2
    err = capsys.readouterr().err
    assert hint in err and err.count("\n") == 1


def test_a_user_s_error_is_one_sentence_and_status_2(verb, capsys, monkeypatch):
    monkeypatch.delenv("ADET_EXT_DEBUG", raising=False)
    verb(raising(UserError("x.json is not JSON; fix line 3")))
    assert cli.main(["probe"]) == 2
    assert capsys.readouterr().err == "adet_ext probe: x.json is not JSON; fix line 3\n"


def test_the_traceback_comes_on_request(verb, capsys, monkeypatch):
    monkeypatch.setenv("ADET_EXT_DEBUG", "1")
    verb(raising(UserError("no such file")))
    assert cli.main(["probe"]) == 2
    err = capsys.readouterr().err
    assert "Traceback" in err and err.endswith("adet_ext probe: no such file\n")


def test_defects_are_not_dressed_up_as_user_errors(verb):
    verb(raising(ZeroDivisionError()))
    with pytest.raises(ZeroDivisionError):
        cli.main(["probe"])


def test_an_interrupt_has_the_shell_s_status(verb):
    verb(raising(KeyboardInterrupt()))
    assert cli.main(["probe"]) == 130


def test_arguments_and_status_pass_through(verb):
    verb(lambda argv: len(argv))
    assert cli.main(["probe", "a", "b", "c"]) == 3
    verb(lambda argv: None)
    assert cli.main(["probe"]) == 0


def test_a_project_s_program_gets_the_same_sentences_and_statuses(capsys):
    for error, status in [(UserError("no images"), 2), (KeyboardInterrupt("stopped"), 130), (Terminated("ended"), 143)]:
        assert cli.run_program("search_net.py", lambda error=error: raising(error)(None)) == status
    err = capsys.readouterr().err
    assert err == "search_net.py: no images\nsearch_net.py: stopped\nsearch_net.py: ended\n"
    assert cli.run_program("search_net.py", lambda: None) == 0


@pytest.mark.parametrize("name", cli.VERBS)
def test_every_verb_has_help(name, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main([name, "--help"])
    assert caught.value.code == 0
    assert f"python -m adet_ext {name}" in capsys.readouterr().out


def test_the_module_runs_as_a_program_and_env_tells_the_engine(tmp_path):
    env = {**os.environ, "ADET_EXT_ENGINE": "embedded", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-W", "ignore", "-m", "adet_ext", "env", "--json"]
    done = subprocess.run(command, cwd=tmp_path, env=env, check=True, capture_output=True, text=True)
    report = json.loads(done.stdout)
    assert report["engine"] == {"on": "embedded", "because": "ADET_EXT_ENGINE=embedded"}
    assert report["adet_ext"]["version"] == __version__
    assert report["packages"]["torch"] and report["compiled operators"]["because"]
    assert any(name.startswith("torchvision.") for name in report["operators"])


@pytest.mark.parametrize("tool, name", TOOLS.items())
def test_tools_are_the_verbs(tool, name):
    text = (ROOT / "tools" / tool).read_text()
    assert f'run("{name}")' in text and len(text.splitlines()) < 15
    assert os.access(ROOT / "tools" / tool, os.X_OK)

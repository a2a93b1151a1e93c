"""Ray: the journal of this process, an actor that is killed, and addresses that do not answer."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from adet_ext.errors import UserError
from adet_ext.nas.evaluators import make_evaluator

from . import light, toy

ADDRESSES = ["10.0.0.1", "nowhere", "ray://localhost", "localhost:0", "localhost:99999", ":6379"]


def test_without_ray_the_option_is_a_sentence(monkeypatch, journal):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"--ray needs Ray, which cannot be imported .* Do pip install ray\."):
        toy.run(journal, ray="local")
    assert not journal.exists()


class TestWithRay:
    @pytest.fixture(autouse=True)
    def _ray(self):
        pytest.importorskip("ray")

    @pytest.mark.parametrize("address", ADDRESSES)
    def test_an_address_of_no_form_is_a_sentence(self, address):
        with pytest.raises(UserError, match=f"--ray must be local, auto, HOST:PORT or ray://HOST:PORT; got {address}"):
            make_evaluator(toy.FACTORY, {}, ray=address)

    @pytest.mark.parametrize("scheme", ["", "ray://"])
    @pytest.mark.parametrize("listens", [False, True])
    def test_an_address_that_does_not_answer_is_a_sentence_within_seconds(self, monkeypatch, journal, scheme, listens):
        monkeypatch.setattr("adet_ext.nas.ray_cluster.PATIENCE", 0.3)
        with socket.socket() as server:
            server.bind(("127.0.0.1", 0))
            if listens:
                server.listen()
            address = f"{scheme}127.0.0.1:{server.getsockname()[1]}"
            begin = time.monotonic()
            with pytest.raises(UserError, match=f"must be the address of a running Ray cluster; {address} does not an"):
                toy.run(journal, ray=address)
        assert time.monotonic() - begin < 3 and not journal.exists()

    def test_a_server_of_another_kind_is_not_taken_for_ray(self):
        with socket.socket() as server:
            server.bind(("127.0.0.1", 0))
            server.listen()

            def answer():
                connection, _ = server.accept()
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                connection.close()

            threading.Thread(target=answer, daemon=True).start()
            with pytest.raises(UserError, match="something else listens there"):
                make_evaluator(toy.FACTORY, {}, ray=f"127.0.0.1:{server.getsockname()[1]}")

    def test_where_none_runs_auto_is_a_sentence(self, monkeypatch, tmp_path):
        monkeypatch.delenv("RAY_ADDRESS", raising=False)
        monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
        with pytest.raises(UserError, match="cluster; auto is not: Could not find any running Ray instance"):
            make_evaluator(toy.FACTORY, {}, ray="auto")
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL  # Ray's own is taken back

    def test_two_actors_write_the_journal_of_this_process_also_when_one_is_killed(self, tmp_path):
        done = run_script(
            tmp_path,
            "toy.run('journal.jsonl', ray='local', workers=2, local={'kill_once': [7], 'marks': '.'})",
            "ray.init(address='local', num_cpus=1, include_dashboard=False, log_to_driver=False)",
            "refused(workers=1, local={'wrong': [1]})",
            "refused(workers=2)",
        )
        toy.run(tmp_path / "whole.jsonl")
        assert toy.lines(tmp_path / "journal.jsonl") == toy.lines(tmp_path / "whole.jsonl")
        entries = toy.read_journal(str(tmp_path / "journal.jsonl")).entries
        assert "ended in the Ray cluster" in entries[7]["cost"]["failures"][0]
        assert {x["cost"]["worker"] for x in entries if "worker" in x["cost"]} == {0, 1}
        said = [line for line in done.stdout.splitlines() if line.startswith("refused: ")]
        assert said == [
            "refused: The proxy must have images; got none. Name a folder with some.",
            "refused: --workers times --threads must be at most the number of cores of the Ray cluster at local, 1; "
            "got 2 times 1. Take fewer.",
        ]


def run_script(folder, *lines):
    """Run Python in a process of its own, as Ray's threads and handlers stay behind, without the models."""
    stub = folder / "stub" / "adet_ext"
    stub.mkdir(parents=True)
    (stub / "__init__.py").write_text(f"__path__ = [{str(light.ROOT / 'adet_ext')!r}]")
    path = [str(stub.parent), str(light.ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    begin = (
        "import ray",
        "from tests.nas import toy",
        "def refused(**options):",
        "    try: toy.run('refused.jsonl', ray='local', **options)",
        "    except toy.UserError as error: print('refused:', error, flush=True)",
    )
    done = subprocess.run(
        [sys.executable, "-c", "\n".join([*begin, *lines])],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path)},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done

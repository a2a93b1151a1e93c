"""Jobs of several processes on the CPU: their talk, averaged gradients, and joining torchrun."""

import os
import socket
import subprocess
import sys

import pytest
import torch
from torch import nn

from adet_ext.d2 import ENGINE
from adet_ext.d2.engine import create_ddp_model, launch
from adet_ext.d2.utils import comm
from adet_ext.errors import UserError
from adet_ext.utils.stopping import Terminated

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="on a GPU machine each process needs a GPU")


def _talk(folder):
    """Write down what one process gets to hear."""
    rank = comm.get_rank()
    reduced = comm.reduce_dict({"b": torch.tensor(2.0 + rank), "a": torch.tensor(10.0 * rank)})
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    data = torch.randn(8, 3)
    ddp = create_ddp_model(model)
    share = data[rank * 4 : rank * 4 + 4] if comm.get_world_size() > 1 else data
    ddp(share).square().mean().backward()
    heard = {
        "world": (comm.get_world_size(), comm.get_local_size(), comm.get_local_rank()),
        "main": comm.is_main_process(),
        "all_gather": comm.all_gather({"rank": rank, "text": "x" * rank}),
        "gather": comm.gather(rank, dst=1),
        "seed": comm.shared_random_seed(),
        "reduced": {k: v.item() for k, v in reduced.items()} if rank == 0 else None,
        "gradient": model.weight.grad,
    }
    comm.synchronize()
    torch.save(heard, os.path.join(folder, f"{rank}.pt"))


def _check(folder):
    first, second = (torch.load(os.path.join(folder, f"{rank}.pt")) for rank in (0, 1))
    assert first["world"] == (2, 2, 0) and second["world"] == (2, 2, 1)
    assert first["main"] and not second["main"]
    assert first["all_gather"] == second["all_gather"] == [{"rank": 0, "text": ""}, {"rank": 1, "text": "x"}]
    assert first["gather"] == [] and second["gather"] == [0, 1]
    assert first["seed"] == second["seed"]
    assert first["reduced"] == {"a": 5.0, "b": 2.5}
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    model(torch.randn(8, 3)).square().mean().backward()
    for heard in (first, second):
        torch.testing.assert_close(heard["gradient"], model.weight.grad)


def test_two_processes_talk_and_average_their_gradients(tmp_path):
    launch(_talk, 2, dist_url="auto", args=(str(tmp_path),))
    _check(tmp_path)


def test_processes_started_by_torchrun_join_one_job_and_leave_no_thread(tmp_path):
    script = tmp_path / "job.py"
    script.write_text(
        "import pathlib, sys\n"
        f"sys.path.insert(0, {os.path.dirname(__file__)!r})\n"
        "from test_launch import _talk, launch\n"
        "launch(_talk, 1, args=(sys.argv[1],))\n"
        "left = [path.read_text() for path in pathlib.Path('/proc/self/task').glob('*/comm')]\n"
        "assert not [name for name in left if 'gloo' in name], left\n"
    )
    # Threads of gloo that are left when Python ends have aborted the process (SIGABRT), now and then.
    subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
        + [str(script), str(tmp_path)],
        env={**os.environ, "ADET_EXT_ENGINE": ENGINE, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        check=True,
        timeout=120,
        capture_output=True,
    )
    _check(tmp_path)


def test_one_process_is_this_process():
    seen = []
    launch(seen.append, 1, args=(os.getpid(),))
    assert seen == [os.getpid()]
    assert comm.get_world_size() == 1 and comm.get_rank() == 0 and comm.get_local_rank() == 0
    assert comm.all_gather("x") == ["x"] and comm.gather("x") == ["x"]
    assert comm.reduce_dict({"x": torch.tensor(1.0)}) == {"x": torch.tensor(1.0)}
    comm.synchronize()


@pytest.mark.parametrize(
    "counts, url, words",
    [
        ((-1,), None, "--num-gpus must be 0 .* or more; got -1"),
        ((0, 2), None, "--num-gpus must be 1 or more with several machines"),
        ((1, 0), None, "--num-machines must be 1 or more .* got 0 and 0"),
        ((1, 2, 2), None, "--machine-rank from 0 to one less; got 2 and 2"),
        ((1, 2), "auto", "--dist-url must be tcp://.* with several machines"),
        ((2,), "here:80", "--dist-url must be tcp://.*; got here:80"),
        ((2,), "tcp://here", "--dist-url must be tcp://.*; got tcp://here"),
        ((2,), "tcp://here:99999", "--dist-url must be tcp://.*; got tcp://here:99999"),
    ],
)
def test_a_job_that_cannot_be_is_refused_by_its_option(counts, url, words):
    with pytest.raises(UserError, match=words):
        launch(print, *counts, dist_url=url)


def test_no_process_is_this_process():
    seen = []
    launch(seen.append, 0, args=(1,))
    assert seen == [1]


def test_a_port_that_is_taken_is_named():
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(UserError, match=f"--dist-url must name a free port; port {port}"):
            launch(print, 2, dist_url=f"tcp://127.0.0.1:{port}")


def _refuse():
    raise UserError("the sentence of a process")


def test_the_sentence_of_a_process_is_the_jobs():
    with pytest.raises(UserError, match="^the sentence of a process$"):
        launch(_refuse, 2, dist_url="auto")


def _be_terminated():
    raise Terminated


def test_a_job_whose_process_got_sigterm_ends_as_terminated():
    with pytest.raises(Terminated):
        launch(_be_terminated, 2, dist_url="auto")

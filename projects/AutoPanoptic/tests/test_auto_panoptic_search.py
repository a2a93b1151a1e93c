"""The search: statistics of a candidate, the same numbers in every order, and the command."""

import json

import pytest
import torch
from auto_panoptic.architecture import load_architecture
from auto_panoptic.correlate import main as correlate
from auto_panoptic.search import leave_ranked, main
from auto_panoptic.shared_weights import SharedWeights, recalibrate
from auto_panoptic.space import AutoPanopticSpace
from torch import nn

from adet_ext.d2.modeling import build_model
from adet_ext.errors import UserError
from adet_ext.nas.evaluation import Task
from adet_ext.nas.journal import Recorded, read_journal
from adet_ext.nas.samplers import build_sampler

SEARCH = "search/shapes"
NODE = "MODEL.AUTO_PANOPTIC.SEARCH"
DATA = [
    *("DATASETS.TRAIN", "('few_shapes_panoptic',)", f"{NODE}.VAL_IMAGES", "2"),
    *(f"{NODE}.CALIBRATION_IMAGES", "4", f"{NODE}.CALIBRATION_BATCH", "2"),
]


@pytest.fixture
def weights(small_config, few_shapes, tmp_path):
    """Return the file of a supernet with random weights."""
    torch.manual_seed(0)
    model = build_model(small_config(SEARCH))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):  # as if trained on other paths
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    torch.save({"model": model.state_dict()}, tmp_path / "supernet.pth")
    return ["MODEL.WEIGHTS", str(tmp_path / "supernet.pth")]


@pytest.fixture
def shared(small_config, weights):
    return lambda: SharedWeights(small_config(SEARCH, *DATA, *weights))


def test_recalibration_takes_the_means_over_all_batches():
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(3).eval()
    norm.running_mean.fill_(9)
    batches = [torch.randn(4, 3, 5, 5) + i for i in range(3)]
    recalibrate(norm, batches)
    assert not norm.training and norm.momentum == 0.1
    torch.testing.assert_close(norm.running_mean, torch.stack([b.mean(dim=(0, 2, 3)) for b in batches]).mean(dim=0))
    torch.testing.assert_close(norm.running_var, torch.stack([b.var(dim=(0, 2, 3)) for b in batches]).mean(dim=0))


def outputs(shared, tokens):
    """Return what a candidate predicts once it is calibrated."""
    shared.calibrate(shared.space.architecture(tokens))
    with torch.no_grad():
        found = shared.model(shared._images[0][:1])[0]
    return found["sem_seg"], found["instances"].scores


def test_a_candidate_gives_the_same_numbers_in_every_order(shared):
    one, again = shared(), shared()
    a, b = (tuple((i + k) % len(d.choices) for i, d in enumerate(one.space.decisions)) for k in range(2))
    first = {candidate: outputs(one, candidate) for candidate in (a, b)}
    assert not torch.equal(first[a][0], first[b][0])
    for candidate in (b, a):
        assert all(map(torch.equal, outputs(again, candidate), first[candidate]))
    outcomes = [x.evaluate(Task(i, b, i)) for i, x in enumerate((one, again))]
    assert outcomes[0].reward == outcomes[1].reward and outcomes[0].metrics == outcomes[1].metrics
    assert outcomes[0].metrics["backbone_multiply_adds"] > 0


def test_the_command_leaves_the_best_which_can_be_trained_alone(small_arguments, weights, tmp_path, capsys):
    file, small = small_arguments(SEARCH)
    words = ["--config-file", file, "--sampler", "genetic", "--budget", "2", "--round", "2", "--best", "1"]
    assert main([*words, "--output", str(tmp_path / "search"), *small, *DATA, *weights]) == 0
    assert "MODEL.AUTO_PANOPTIC.ARCHITECTURE" in capsys.readouterr().out
    assert len(read_journal(str(tmp_path / "search" / "journal.jsonl")).entries) == 2
    load_architecture(str(tmp_path / "search" / "best" / "architecture_1.json"))
    _both_are_trained_alone(small_arguments, tmp_path, capsys)


def _both_are_trained_alone(small_arguments, tmp_path, capsys):
    file, small = small_arguments("shapes")
    words = [str(tmp_path / "search"), "--config-file", file, "--count", "2", "--opts", *small]
    words += ["SOLVER.MAX_ITER", "1", "SOLVER.IMS_PER_BATCH", "2"]
    assert correlate(words) == 0
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("architecture")]
    assert len(said) == 2
    assert correlate(words) == 0  # what is trained is evaluated alone
    assert [line for line in capsys.readouterr().out.splitlines() if line.startswith("architecture")] == said
    found = json.loads((tmp_path / "search" / "alone" / "correlation.json").read_text())
    assert len(found["architectures"]) == 2


def test_the_choices_with_most_points_are_left(tmp_path, capsys):
    space = AutoPanopticSpace((4, 8, 12, 16, 24), (1, 1, 2, 1))
    sampler = build_sampler("path-priority", space, 3, cycles=1, ranks=2)
    entries = [{"tokens": tokens, "reward": float(-sum(tokens))} for tokens in sampler.ask(12)]
    header = {"sampler": {"name": "path-priority", "cycles": 1, "ranks": 2}, "seed": 3}
    leave_ranked(space, Recorded(header, entries[:11]), str(tmp_path))
    assert "most points: none yet; a cycle has 12" in capsys.readouterr().out and not list(tmp_path.iterdir())
    leave_ranked(space, Recorded(header, entries), str(tmp_path))
    sampler.tell([(entry["tokens"], entry["reward"]) for entry in entries])
    for rank in range(2):
        found = load_architecture(str(tmp_path / "best" / f"points_{rank + 1}.json"))
        assert space.tokens_of(found) == sampler.ranked(rank)


@pytest.mark.parametrize(
    "overrides, message",
    [
        (("MODEL.WEIGHTS", ""), "MODEL.WEIGHTS must be a trained supernet; got none"),
        ((f"{NODE}.CALIBRATION_IMAGES", "0"), "CALIBRATION_IMAGES must be 1 or more; got 0"),
    ],
)
def test_what_is_missing_is_one_sentence(small_config, weights, overrides, message):
    with pytest.raises(UserError, match=message):
        SharedWeights(small_config(SEARCH, *DATA, *weights, *overrides))

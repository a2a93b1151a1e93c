"""The search for a dense prediction cell on the features of a frozen backbone."""

import json

import pytest
import torch
from auto_deeplab.correlate import main as correlate
from auto_deeplab.dense_proxy import DenseProxy
from auto_deeplab.dense_search import main
from auto_deeplab.dpc import load_dense_genotype

from adet_ext.errors import UserError
from adet_ext.nas.evaluation import Task


def options(folder, name, *more):
    return [
        *("DATASETS.TRAIN", f"('{name}',)", "DATASETS.TEST", "()", "OUTPUT_DIR", str(folder)),
        *("INPUT.SEMANTIC.ENABLED", "True", "INPUT.SEMANTIC.LONGER_SIDE", "64", "SEED", "1", "MODEL.WEIGHTS", ""),
        *("MODEL.ATROUS_HEAD.SEARCH.ITERATIONS", "2", "MODEL.ATROUS_HEAD.SEARCH.BATCH", "3"),
        *("MODEL.ATROUS_HEAD.SEARCH.VAL_FRACTION", "0.5", "MODEL.ATROUS_HEAD.SEARCH.BRANCHES", "2"),
        *("MODEL.RESNETS.DEPTH", "18", *more),
    ]


NAME = "search/dpc_body_shapes"
THREE = ("MODEL.SEM_SEG_HEAD.NUM_CLASSES", "3")


@pytest.fixture
def config(small_config, semantic_set, tmp_path):
    return lambda *more: small_config(NAME, *options(tmp_path / "run", semantic_set, *THREE, *more))


def test_kept_features_are_those_computed_anew_and_the_backbone_stays(config):
    kept, anew = DenseProxy(config()), DenseProxy(config("MODEL.ATROUS_HEAD.SEARCH.CACHE", ""))
    numbers = kept.train[:2]
    for name, feature in kept._batch(numbers)[0].items():
        torch.testing.assert_close(feature, anew._batch(numbers)[0][name], atol=1e-2, rtol=1e-2)  # float16
    assert sorted(kept.train + kept.val) == list(range(6)) and len(kept.val) == 3
    before = {key: value.clone() for key, value in kept.model.state_dict().items()}
    tokens = kept.space.encode(["map", "conv_1x1", "branch0", "atrous_3x1"])
    outcome = kept.evaluate(Task(0, tokens, 5))
    assert outcome.reward == outcome.metrics["mIoU"] and 0 <= outcome.reward <= 100
    assert kept.evaluate(Task(0, tokens, 5)).reward == outcome.reward
    assert all(torch.equal(value, before[key]) for key, value in kept.model.state_dict().items())
    stopped = kept.evaluate(Task(0, tokens, 5, thresholds=(1e9,)))
    assert stopped.stopped and len(stopped.scores) == 1


def test_the_command_leaves_cells_that_a_config_can_name(tmp_path, semantic_set, small_arguments, capsys):
    folder, (file, small) = tmp_path / "search", small_arguments(NAME)
    arguments = ["--config-file", file, "--sampler", "random", "--budget", "3", "--round", "2"]
    arguments += ["--output", str(folder), *small, *options(tmp_path / "run", semantic_set)]
    assert main(arguments) == 0
    best = load_dense_genotype(str(folder / "best" / "cell_1.json"))
    assert len(best.branches) == 2 and "MODEL.ATROUS_HEAD.PYRAMID" in capsys.readouterr().out
    lines = [json.loads(line) for line in (folder / "journal.jsonl").read_text().splitlines()]
    assert len(lines) >= 4 and (folder / "report.html").is_file()
    local = ["MODEL.ATROUS_HEAD.SEARCH.CACHE", "memory"]
    assert correlate([str(folder), "--count", "2", "--times", "1.5", "--seed", "1", "2", "--opts", *local]) == 0
    found = json.loads((folder / "correlation.json").read_text())
    assert found["iterations"] == 3 and found["seeds"] == [1, 2] and len(found["architectures"]) == 2


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        (["MODEL.ATROUS_HEAD.SEARCH.IMAGES", "7"], "SEARCH.IMAGES must be at most 6, the images of stripes; got 7"),
        (["MODEL.ATROUS_HEAD.SEARCH.VAL_FRACTION", "1.0"], "images to train on and others to validate on"),
        (["MODEL.ATROUS_HEAD.SEARCH.BRANCHES", "0"], "BRANCHES must be 1 or more; got 0"),
        (["MODEL.SEM_SEG_HEAD.NAME", "SemSegFPNHead"], "NAME must be AtrousHead for a search; got SemSegFPNHead"),
    ],
)
def test_what_does_not_fit_is_named(config, keys, words):
    with pytest.raises(UserError, match=words):
        DenseProxy(config(*keys))

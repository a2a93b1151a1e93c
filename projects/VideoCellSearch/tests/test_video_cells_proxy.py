"""The proxy task: the split, features from the cache and anew, training, rewards, early stopping, the command."""

import functools
import json

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from video_cells.genotype import CellGenotype, load_genotype
from video_cells.proxy import METRICS, Proxy
from video_cells.proxy_data import split
from video_cells.search import main

from adet_ext.cli.project_search import config_of
from adet_ext.d2.data import DatasetCatalog
from adet_ext.data.shapes_sequences import register_shapes_video
from adet_ext.errors import UserError
from adet_ext.nas.evaluation import Task

TOKENS = (1, 2, 0, 0, 0, 5, 3, 4, 4, 3)


@pytest.fixture(scope="module", autouse=True)
def frames():
    register_shapes_video("cells_train", 8, 3, size=(48, 64), seed=5)


KEYS = [
    *("DATASETS.TRAIN", ("cells_train",), "INPUT.VIDEO.FRAMES", 3, "MODEL.SEM_SEG_HEAD.NUM_CLASSES", 9),
    *("MODEL.VIDEO.SEARCH.LAYERS", 2, "MODEL.VIDEO.SEARCH.BATCH", 3, "MODEL.VIDEO.SEARCH.EPOCHS", 2),
    *("MODEL.VIDEO.SEARCH.VAL_FRACTION", 0.25, "MODEL.VIDEO.SEARCH.CACHE", "memory", "SEED", 1),
]


@pytest.fixture(scope="module")
def proxy(tiny_config):
    """Make a proxy task with overrides; each once."""
    return functools.cache(lambda *keys: Proxy(tiny_config(*KEYS, *keys)))


def test_a_split_shares_no_frame_and_is_the_same_for_a_seed():
    runs = [[f"{run}.{t}" for t in range(10)] for run in range(4)]
    windows = [run[start : start + 3] for run in runs for start in range(8)]
    train, val = split(windows, 0.2, seed=0)
    files = [{file for number in part for file in windows[number]} for part in (train, val)]
    assert files[0].isdisjoint(files[1])
    assert len(val) == 2 and len(files[1]) == 6  # a fifth of 40 frames are two sequences of three, which do not overlap
    assert split(windows, 0.2, seed=0) == (train, val) != split(windows, 0.2, seed=1)
    alone = [run[:3] for run in runs] + [run[3:6] for run in runs]
    assert [len(part) for part in split(alone, 0.25, seed=0)] == [6, 2]
    with pytest.raises(UserError, match="sequences to train on and others"):
        split(windows[:2], 0.1, seed=0)


def test_the_cache_gives_what_the_static_network_gives(proxy):
    kept = proxy()
    first = kept.train.frames.sequences[0]
    assert len(kept.train.frames) == 18 and len(kept.val.frames) == 6  # six and two sequences of three
    found, anew = kept.train.features(first), kept.train.compute(first)
    assert {name: tuple(x.shape) for name, x in found.items()} == {
        "layer2": (3, 32, 6, 8), "layer3": (3, 96, 3, 4), "layer4": (3, 320, 2, 2), "dec": (3, 8, 6, 8),
    }  # fmt: skip
    for name, x in anew.items():
        torch.testing.assert_close(found[name], x, rtol=2e-3, atol=2e-3)
    labels = kept.train.labels(first[0])
    assert labels.shape == (48, 64) and labels.dtype == torch.uint8 and labels.max() < 9


def test_an_evaluation_is_reproduced_and_its_reward_is_the_geometric_mean(proxy):
    task = Task(0, TOKENS, seed=3)
    first = proxy().evaluate(task)
    torch.rand(3), np.random.rand(3)  # what comes between does not matter
    second = proxy().evaluate(task)
    assert (first.reward, first.metrics) == (second.reward, second.metrics)
    assert first.reward == pytest.approx(np.prod([first.metrics[name] for name in METRICS]) ** (1 / 3))
    assert 0 < first.reward < 1 and set(first.seconds) == {"features", "training", "validation"}


def test_training_a_cell_lowers_its_loss_and_leaves_the_static_network(proxy):
    found = proxy()
    found.node.EPOCHS = 8
    before = {name: value.clone() for name, value in found.static.state_dict().items()}
    torch.manual_seed(0)
    cell = found.build(CellGenotype.from_numbers([TOKENS[:5], TOKENS[5:]]))
    losses = list(found._train(cell, {"features": 0, "training": 0}))
    found.node.EPOCHS = 2
    assert losses[-1] < 0.7 * losses[0]
    assert all(torch.equal(value, before[name]) for name, value in found.static.state_dict().items())


def test_a_poor_cell_is_stopped_after_half_of_the_epochs(proxy):
    found = proxy()
    stopped = found.evaluate(Task(0, TOKENS, seed=3, thresholds=(2.0,)))
    assert stopped.stopped and stopped.scores == (stopped.reward,)
    through = found.evaluate(Task(0, TOKENS, seed=3, thresholds=(-1.0,)))
    assert not through.stopped and through.scores == stopped.scores and through.reward != stopped.reward


def test_training_frames_are_padded_and_validation_frames_are_not(proxy):
    found = proxy("INPUT.SEMANTIC.PAD_TO", 96, "INPUT.SEMANTIC.PAD_VALUE", "mean")
    read = found._read(found.train, found.train.frames.sequences[:2])
    assert read[1][0].shape == (2, 96, 96) and (read[1][0][:, :24] == 255).all()
    assert found._read(found.val, found.val.frames.sequences[:1])[1][0].shape == (1, 48, 64)


def test_a_crop_is_at_one_place_of_all_features_and_labels(proxy):
    found = proxy("INPUT.SEMANTIC.CROP", 64)

    def grid(stride, height=100, width=160):
        """At every place its row and column in pixels: 1000 row + column."""
        rows, columns = (torch.arange(0, side, stride) for side in (height, width))
        return (1000 * rows[:, None] + columns).expand(2, 3, -1, -1)

    features = [{name: grid(s) for name, s in (("layer2", 8), ("layer3", 16), ("layer4", 32), ("dec", 8))}] * 2
    places = set()
    for seed in range(60):
        cut, labels = found._cropped(features, [grid(1)[:, 0]] * 2, np.random.default_rng(seed))
        assert labels[0].shape == (2, 64, 64)
        assert {n: x.shape[-1] for n, x in cut[1].items()} == {"layer2": 8, "layer3": 4, "layer4": 2, "dec": 8}
        assert {int(x[0, 0, 0, 0]) for x in cut[1].values()} == {int(labels[1][0, 0, 0])}
        places.add(int(labels[0][0, 0, 0]))
    assert places == {1000 * row + column for row in (0, 32) for column in (0, 32, 64, 96)}


def test_without_a_cache_the_static_network_runs_for_every_batch(proxy):
    task = Task(0, TOKENS, seed=3)
    kept, anew = proxy().evaluate(task), proxy("MODEL.VIDEO.SEARCH.CACHE", "").evaluate(task)
    assert anew.reward == pytest.approx(kept.reward, abs=0.02)  # half precision in the cache


def test_frames_that_a_command_names_are_registered_where_they_are_evaluated(tiny_config, tmp_path):
    for t in range(2):
        for kind, pixels in (("images", (8, 8, 3)), ("labels", (8, 8))):
            (tmp_path / kind / "a").mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.zeros(pixels, np.uint8)).save(tmp_path / kind / "a" / f"{t}.png")
    (tmp_path / "classes.json").write_text(json.dumps({"classes": ["sky", "road"]}))
    settings = {"config": yaml.safe_load(tiny_config().dump()), "frames": [["cells_own", str(tmp_path)]]}
    config_of(settings), config_of(settings)
    assert len(DatasetCatalog.get("cells_own")) == 1


def test_a_search_leaves_its_journal_report_and_best_cells(tiny_config, tmp_path, capsys):
    config = tmp_path / "small.yaml"
    cfg = tiny_config(*KEYS, "MODEL.VIDEO.SEARCH.CACHE", str(tmp_path / "features"), "MODEL.VIDEO.SEARCH.EPOCHS", 1)
    config.write_text(cfg.dump())
    command = ["--config-file", str(config), "--output", str(tmp_path / "out"), "--round", "1", "--best", "1"]
    assert main([*command, "--budget", "1", "--sampler", "random"]) == 0
    assert main([*command, "--budget", "2", "--sampler", "random"]) == 0  # goes on
    lines = [json.loads(line) for line in (tmp_path / "out" / "journal.jsonl").read_text().splitlines()[1:]]
    assert [line["index"] for line in lines][:2] == [0, 1] and "mIoU" in lines[0]["metrics"]
    best = max(lines, key=lambda line: line["reward"])
    genotype = load_genotype(str(tmp_path / "out" / "best" / "cell_1.json"), CellGenotype)
    assert [token for row in genotype.to_numbers() for token in row] == best["tokens"]
    assert (tmp_path / "out" / "report.html").is_file()
    assert f"MODEL.VIDEO.CELL {tmp_path / 'out' / 'best' / 'cell_1.json'}" in capsys.readouterr().out

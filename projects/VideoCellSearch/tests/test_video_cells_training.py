"""Training as users start it: a static network, then a cell in two phases, resumed, evaluated; every config."""

import json
from pathlib import Path

import pytest
import torch
from video_cells.cell import DynamicCell
from video_cells.genotype import CellGenotype, save_genotype
from video_cells.trainer import VideoTrainer

from adet_ext import load_config
from adet_ext.cli import run
from adet_ext.data.shapes_sequences import register_shapes_video
from adet_ext.engine.trainers import trainer_of
from adet_ext.errors import UserError

PROJECT = Path(__file__).resolve().parents[1]
CONFIGS = sorted((PROJECT / "configs").rglob("*.yaml"))
SMALL = [
    *("MODEL.DEVICE", "cpu", "MODEL.VIDEO.WIDTH", "8", "MODEL.SEM_SEG_HEAD.NUM_CLASSES", "9", "SEED", "1"),
    *("SOLVER.IMS_PER_BATCH", "2", "SOLVER.MAX_ITER", "4", "SOLVER.CHECKPOINT_PERIOD", "3", "DATALOADER.NUM_WORKERS"),
    *("0", "DATASETS.TRAIN", "('cells_small',)", "DATASETS.TEST", "()", "INPUT.SEMANTIC.PAD_TO", "0"),
]


@pytest.fixture(scope="module", autouse=True)
def frames():
    register_shapes_video("cells_small", 4, 3, size=(48, 64), seed=5)
    register_shapes_video("cells_small_val", 1, 3, size=(48, 64), seed=6)


@pytest.fixture(scope="module")
def static(tmp_path_factory):
    """The folder of a static network, trained for four iterations."""
    output = tmp_path_factory.mktemp("static")
    assert train("CamVid_arch2", output) == 0
    return output


@pytest.fixture(scope="module")
def cell(tmp_path_factory):
    path = str(tmp_path_factory.mktemp("cell") / "cell.json")
    save_genotype(CellGenotype.from_numbers([[1, 2, 0, 5, 3], [0, 5, 4, 1, 2]]), path)
    return path


def train(config, output, *words, arguments=()):
    file = str(PROJECT / "configs" / f"{config}.yaml")
    return run("train", ["--config-file", file, *arguments, *SMALL, "OUTPUT_DIR", str(output), *words])


def weights(output):
    return torch.load(output / "model_final.pth", weights_only=True)["model"]


def entries(output):
    return [json.loads(line) for line in (output / "metrics.json").read_text().splitlines()]


def test_a_static_network_is_trained_with_its_auxiliary_losses(static):
    assert {"loss_sem_seg", "loss_aux1", "loss_aux2", "loss_aux3", "total_loss"} <= set(entries(static)[-1])


def test_the_cell_is_trained_alone_and_then_everything_and_a_resumed_run_is_the_same(static, cell, tmp_path):
    words = ["MODEL.VIDEO.CELL", cell, "MODEL.WEIGHTS", str(static / "model_final.pth")]
    words += ["MODEL.VIDEO.SOLVER.CELL_ITERS", "2", "INPUT.SEMANTIC.CROP", "0"]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert train("CamVid_cell", whole, *words) == 0
    after_both = weights(whole)
    alone = tmp_path / "alone"
    assert train("CamVid_cell", alone, *words, "SOLVER.MAX_ITER", "2") == 0
    before, after_cell = weights(static), weights(alone)
    kept = {name for name in before if name in after_cell}
    assert all(torch.equal(before[name], after_cell[name]) for name in kept)
    assert not any(name.startswith("decoder.auxiliary") for name in after_cell)
    name = "backbone.features.0.0.weight"
    assert not torch.equal(before[name], after_both[name])
    # Killed after the third iteration, in the second phase.
    assert train("CamVid_cell", cut, *words) == 0
    (cut / "model_final.pth").unlink()
    (cut / "last_checkpoint").write_text("model_0000002.pth")
    assert train("CamVid_cell", cut, *words, arguments=("--resume",)) == 0
    resumed = weights(cut)
    assert all(torch.equal(value, resumed[name]) for name, value in after_both.items())


def test_a_cell_is_evaluated_with_and_without_its_connections(static, cell, tmp_path, monkeypatch):
    # As trained: the weights of the cell are random, and so is what it finds.
    words = [
        "MODEL.VIDEO.CELL",
        cell,
        "SOLVER.MAX_ITER",
        "2",
        "MODEL.VIDEO.SOLVER.CELL_ITERS",
        "1",
        "INPUT.SEMANTIC.CROP",
        "0",
    ]
    assert train("CamVid_cell", tmp_path, *words, "MODEL.WEIGHTS", str(static / "model_final.pth")) == 0
    forward, connections, found = DynamicCell.forward, [], []

    def recording(self, inputs, connected=True):
        connections.append(connected)
        return forward(self, inputs, connected)

    monkeypatch.setattr(DynamicCell, "forward", recording)
    for dynamic in ("True", "False"):
        ends = ["DATASETS.TEST", "('cells_small_val',)", "MODEL.WEIGHTS", str(tmp_path / "model_final.pth")]
        ends += ["MODEL.VIDEO.DYNAMIC", dynamic]
        assert train("CamVid_cell", tmp_path, *words, *ends, arguments=("--eval-only",)) == 0
        found.append(json.loads((tmp_path / "inference" / "sem_seg_evaluation.json").read_text()))
    assert found[0]["frames"] == found[1]["frames"] == 3
    # Of three frames, evaluated with up to two before them, one is a first frame alone: 0 + 1 + 2 by the cell.
    assert connections == [True] * 3 + [False] * 3
    assert all(0 <= scores["scores"]["mIoU"] <= 100 for scores in found)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (("INPUT.VIDEO.FRAMES", "1"), "INPUT.VIDEO.FRAMES must be 2 or more to train a cell"),
        (("SOLVER.IMS_PER_BATCH", "1"), "SOLVER.IMS_PER_BATCH must be 2 or more"),
        (("MODEL.VIDEO.CELL", "nobody"), "a genotype must be a JSON file or one of"),
    ],
)
def test_what_cannot_be_trained_is_refused(keys, message, cell):
    cfg = load_config(str(PROJECT / "configs" / "CamVid_cell.yaml"), [*SMALL, "MODEL.VIDEO.CELL", cell, *keys])
    with pytest.raises(UserError, match=message):
        VideoTrainer(cfg)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: str(path.relative_to(PROJECT / "configs")))
def test_every_config_loads_and_says_where_it_writes(path):
    cfg = load_config(str(path))
    assert cfg.MODEL.META_ARCHITECTURE == "VideoSegmentor" and trainer_of(cfg) is VideoTrainer
    if not path.stem.startswith("Base"):
        assert path.stem.split("_")[0].lower() in cfg.OUTPUT_DIR.lower() or path.parent.name != "configs"


@pytest.mark.parametrize(
    ("name", "dataset", "batch", "frames", "epochs", "count"),
    [
        ("CamVid_arch2", "camvid_video_train", 32, 1, 2000, 367),
        ("CityScapes_arch2", "cityscapes_video_train", 28, 1, 1000, 2975),
        ("CamVid_cell", "camvid_video_train", 16, 3, 110, 357),
        ("CityScapes_cell", "cityscapes_video_train", 16, 2, 400, 2975),
    ],
)
def test_the_configs_have_the_schedules_of_the_thesis(name, dataset, batch, frames, epochs, count):
    cfg = load_config(str(PROJECT / "configs" / f"{name}.yaml"))
    assert cfg.DATASETS.TRAIN == (dataset,) and cfg.INPUT.VIDEO.FRAMES == frames
    assert cfg.SOLVER.IMS_PER_BATCH == batch
    assert abs(cfg.SOLVER.MAX_ITER * batch - epochs * count) <= batch

"""Shift consistency: an equivariant model answers alike at every shift, one on a coarse grid at its multiples alone."""

import json

import pytest

from adet_ext.benchmark.shift import shift_consistency
from adet_ext.cli import bench
from adet_ext.config import get_cfg
from adet_ext.engine.predictor import Predictor
from adet_ext.errors import UserError

from ..fake_model import BlobModel, rectangles


class GridModel(BlobModel):
    """Sees every fourth pixel alone."""

    def forward(self, inputs):
        coarse = [x["image"][:, ::4, ::4].repeat_interleave(4, 1).repeat_interleave(4, 2) for x in inputs]
        sizes = [x["image"].shape[1:] for x in inputs]
        return super().forward([{**x, "image": c[:, :h, :w]} for x, c, (h, w) in zip(inputs, coarse, sizes)])


@pytest.fixture
def cfg():
    cfg = get_cfg()
    cfg.INPUT.MIN_SIZE_TEST = 0
    cfg.MODEL.PIXEL_MEAN = [0.0, 0.0, 0.0]
    return cfg


IMAGES = [rectangles(32, 40, (5, 6, 21, 27)), rectangles(32, 40, (9, 3, 30, 16))]


def test_an_equivariant_model_is_wholly_consistent(cfg):
    result = shift_consistency(Predictor(cfg, BlobModel()), IMAGES, shifts=5, threshold=0.3)
    assert result.objects == 2 and result.found == (1.0,) * 5
    assert result.box_iou == pytest.approx((1.0,) * 5) and result.mask_iou == pytest.approx((1.0,) * 5)
    assert result.score == (0.0,) * 5


def test_a_strided_model_is_consistent_only_at_multiples_of_its_stride(cfg):
    result = shift_consistency(Predictor(cfg, GridModel()), IMAGES, shifts=8, threshold=0.3)
    assert [round(value, 3) == 1 for value in result.mask_iou] == [False] * 3 + [True] + [False] * 3 + [True]


def test_nothing_found_gives_no_objects(cfg):
    result = shift_consistency(Predictor(cfg, BlobModel()), [rectangles(32, 40)], shifts=2)
    assert result.objects == 0 and result.found == (0.0, 0.0)


def test_the_command_compares_runs_and_draws(cfg, tmp_path, monkeypatch, capsys):
    from adet_ext.cli import bench_shift

    models = {"plain": GridModel, "blurred": BlobModel}
    monkeypatch.setattr(bench_shift, "_predictor", lambda folder: Predictor(cfg, models[folder]()))
    monkeypatch.setattr(bench_shift, "_images", lambda dataset, count: IMAGES)
    numbers, page = tmp_path / "shift.json", tmp_path / "page" / "shift.html"
    files = ["--json", str(numbers), "--html", str(page)]
    assert (
        bench.main(["shift", "plain", "blurred", "--shifts", "3", "--threshold", "0.3", "--dataset", "any", *files])
        == 0
    )
    assert [line.split()[:3] for line in capsys.readouterr().out.splitlines()[2:]] == [
        ["plain", "2", "100.00"],
        ["blurred", "2", "100.00"],
    ]
    found = json.loads(numbers.read_text())
    assert min(found["blurred"]["mask_iou"]) > min(found["plain"]["mask_iou"])
    assert page.read_text().count("<svg") == 3


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(UserError, match="must be the output folder of a finished training; got .*config.yaml"):
        bench.main(["shift", str(tmp_path)])

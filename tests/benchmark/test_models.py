"""Timing in paired rounds, and random weights with a set number of detections."""

import json

import cv2
import numpy as np
import pytest
import torch

from adet_ext.benchmark.analysis import build_for_costs
from adet_ext.benchmark.calibrate import calibrate, count_detections
from adet_ext.benchmark.clock import ClockWatch
from adet_ext.benchmark.inputs import make_inputs
from adet_ext.benchmark.paired import Partner, ratios, run_rounds, spread
from adet_ext.benchmark.steps import STEPS
from adet_ext.benchmark.worker import STAGES
from adet_ext.cli import bench
from adet_ext.config import load_config
from adet_ext.errors import UserError


class Recorder(Partner):
    """A partner that is never started and takes the times it is given."""

    def ask(self, do, **arguments):
        self.calls.append(self.label)
        return {"total": float(len(self.calls))}


def test_the_ratio_is_taken_round_by_round():
    drifting = [1.0, 2.0, 4.0, 8.0]
    assert ratios([2 * t for t in drifting], drifting) == spread([2.0] * 4)


def test_spread_is_median_quartiles_and_least():
    found = spread([5.0, 1.0, 3.0, 2.0, 4.0])
    assert (found.median, found.lower, found.upper, found.least) == (3.0, 2.0, 4.0, 1.0)
    assert (found.p90, found.p99) == (4.6, 4.96)
    assert spread([7.0]).median == spread([7.0]).p99 == 7.0


def test_rounds_alternate_the_order_and_skip_warm_up():
    a, b = Recorder("a", "", ""), Recorder("b", "", "")
    a.calls = b.calls = calls = []
    run_rounds([a, b], rounds=2, warmup=1, tick=lambda: None)
    assert calls == ["b", "a", "a", "b", "b", "a"]
    assert len(a.rounds) == len(b.rounds) == 2


@pytest.mark.parametrize("config", ["demo/shapes_R_18.yaml"])
def test_calibrated_weights_find_as_many_objects_as_asked_for(config):
    torch.manual_seed(0)
    model = build_for_costs(load_config(config))
    inputs = make_inputs((), 128, 160)
    found = calibrate(model, inputs, 10, 20)
    with torch.inference_mode():
        assert count_detections(model(inputs)) == found
    assert 10 <= found <= 20


def test_a_model_without_known_outputs_is_refused():
    with pytest.raises(ValueError, match="must have cls_logits or cls_score"):
        calibrate(torch.nn.Identity(), [], 1, 2)


def test_models_are_timed_side_by_side(tmp_path, capsys):
    path = tmp_path / "deep" / "times.json"
    arguments = ["models", "--config-file", "demo/shapes_R_18.yaml", "demo/shapes_R_18.yaml", "--height", "64"]
    arguments += ["--width", "96", "--rounds", "3", "--warmup", "1", "--threads", "1", "--detections", "5", "30"]
    assert bench.main([*arguments, "--json", str(path)]) == 0
    report = json.loads(path.read_text())
    first, second = report["rows"]
    assert first["ratio"]["median"] == 1.0 and second["ratio"]["median"] > 0
    assert first["detections"] == second["detections"] and 5 <= first["detections"] <= 30
    for row in report["rows"]:
        assert row["ms"]["least"] > 0 and set(row["stages"]) == set(STAGES)
        assert all(value > 0 for value in row["stages"].values())
    assert "demo/shapes_R_18.yaml" in capsys.readouterr().out


def test_a_partner_s_error_is_a_sentence_with_its_name():
    with pytest.raises(UserError, match="nowhere.yaml.*there is no config"):
        bench.main(["models", "--config-file", "nowhere.yaml", "--rounds", "1", "--warmup", "0"])


def test_steps_of_one_model_are_timed_in_several_runtimes(tmp_path, capsys):
    pictures = [str(tmp_path / name) for name in ("a.png", "b.jpg")]
    generator = np.random.default_rng(0)
    for picture in pictures:
        cv2.imwrite(picture, generator.integers(0, 256, (70, 100, 3), dtype=np.uint8))
    path = tmp_path / "times.json"
    words = ["models", "--config-file", "demo/shapes_R_18.yaml", "--runs", "eager", "pt2", "--steps", "--images"]
    words += [*pictures, "--height", "64", "--width", "96", "--rounds", "2", "--warmup", "1", "--threads", "1"]
    assert bench.main([*words, "--detections", "5", "30", "--json", str(path)]) == 0
    rows = json.loads(path.read_text())["rows"]
    assert [row["label"] for row in rows] == ["demo/shapes_R_18.yaml (eager)", "demo/shapes_R_18.yaml (pt2)"]
    eager, exported = (row["stages"] for row in rows)
    assert set(eager) == set(STEPS) and all(value > 0 for value in eager.values())
    assert exported["network"] > 0 and exported["nms"] == exported["masks"] == 0  # of one graph
    assert rows[0]["detections"] == rows[1]["detections"] >= 5
    assert "p99" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--steps"], "--steps must come with --images"),
        (["--runs", "fast"], "--runs must be some of eager, compiled.*; got fast"),
        (["--runs", "eager", "--batch", "2"], "--runs must come with --device cpu and --batch 1"),
        (["--rounds", "0"], "--rounds must be 1 or more"),
    ],
)
def test_options_that_do_not_fit_are_refused(words, message):
    with pytest.raises(UserError, match=message):
        bench.main(["models", "--config-file", "demo/shapes_R_18.yaml", *words])


def test_an_unsteady_machine_is_noted():
    watch = ClockWatch()
    watch.load = 0.0
    watch.look()
    assert watch.milliseconds[0] > 0 and watch.note() is None
    watch.milliseconds = [1.0, 1.1, 1.5]
    assert "took 1.00 to 1.50 ms: the clock was throttled, or other processes ran" in watch.note()

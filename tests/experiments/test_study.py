"""Studies: rows, seeds, what is finished stays finished."""

import json
import subprocess

import pytest

from adet_ext.errors import UserError
from adet_ext.experiments.study import load_study, render_study, run_study, summarise

STUDY = """
title: two rows
config: demo/shapes_R_18.yaml
opts: [SOLVER.MAX_ITER, 2]
seeds: [1, 2]
metrics: [segm/AP]
rows:
  plain: []
  other one: {config: demo/shapes_smalmask_R_18.yaml, opts: [MODEL.FCOS.POS_RADIUS, 1.0]}
"""


@pytest.fixture
def study(tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text(STUDY)
    return load_study(str(path))


@pytest.fixture
def trainings(monkeypatch):
    """Stand-ins for trainings: they leave a metrics.json whose AP is ten times the seed."""
    seen = []

    def run(command, **kwargs):
        folder = command[command.index("OUTPUT_DIR") + 1]
        seed = int(command[command.index("SEED") + 1])
        seen.append(command)
        if "13.0" in command:
            return subprocess.CompletedProcess(command, 3)
        with open(f"{folder}/metrics.json", "w") as file:
            file.write(json.dumps({"iteration": 1, "total_loss": 1.0}) + "\n")
            file.write(json.dumps({"iteration": 2, "segm/AP": 10.0 * seed, "bbox/AP": 1.0}) + "\n")
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr("adet_ext.experiments.study.subprocess.run", run)
    return seen


def test_rows_add_their_overrides_to_those_of_all_rows(study):
    assert [(run.row, run.seed) for run in study.runs] == [
        ("plain", 1), ("other one", 1), ("plain", 2), ("other one", 2)
    ]  # fmt: skip
    assert study.runs[1].arguments == (
        "--config-file", "demo/shapes_smalmask_R_18.yaml",
        "SOLVER.MAX_ITER", "2", "MODEL.FCOS.POS_RADIUS", "1.0", "SEED", "1",
    )  # fmt: skip


def test_the_table_has_mean_and_range_over_the_seeds(study, trainings, tmp_path):
    results = run_study(study, str(tmp_path / "out"), jobs=2, tick=lambda run: None)
    table = render_study(study, summarise(study, results))
    assert "| plain | 15.0 (10.0 to 20.0) |" in table and "| other one | 15.0 (10.0 to 20.0) |" in table
    assert len(trainings) == 4


def test_a_metric_that_a_row_does_not_have_is_a_dash_there(study, trainings, tmp_path):
    (tmp_path / "study.yaml").write_text(STUDY.replace("[segm/AP]", "[segm/AP, panoptic_seg/PQ]"))
    study = load_study(str(tmp_path / "study.yaml"))
    rows = summarise(study, run_study(study, str(tmp_path / "out"), tick=lambda run: None))
    assert "| plain | 15.0 (10.0 to 20.0) | – |" in render_study(study, rows)
    del trainings[:]
    run_study(study, str(tmp_path / "out"), tick=lambda run: None)
    assert not trainings


def test_a_row_with_none_of_the_metrics_is_an_error(trainings, tmp_path):
    (tmp_path / "study.yaml").write_text(STUDY.replace("segm/AP", "panoptic_seg/PQ"))
    with pytest.raises(UserError, match="has none of panoptic_seg/PQ; it has bbox/AP, segm/AP"):
        run_study(load_study(str(tmp_path / "study.yaml")), str(tmp_path / "out"), tick=lambda run: None)


def test_finished_runs_are_not_repeated_but_changed_ones_begin_anew(study, trainings, tmp_path):
    run_study(study, str(tmp_path / "out"), tick=lambda run: None)
    checkpoint = tmp_path / "out" / "other_one" / "seed1" / "last_checkpoint"
    checkpoint.write_text("model_final.pth")
    (tmp_path / "study.yaml").write_text(STUDY.replace("POS_RADIUS, 1.0", "POS_RADIUS, 2.0"))
    again = load_study(str(tmp_path / "study.yaml"))
    del trainings[:]
    run_study(again, str(tmp_path / "out"), tick=lambda run: None)
    assert len(trainings) == 2 and all("2.0" in command for command in trainings)
    assert not checkpoint.exists()


def test_a_run_whose_config_file_has_changed_begins_anew(trainings, tmp_path):
    config = tmp_path / "mine.yaml"
    (tmp_path / "study.yaml").write_text(f"{{config: {config}, rows: {{a: []}}}}")
    study = load_study(str(tmp_path / "study.yaml"))
    for rate, expected in ((0.1, 1), (0.1, 1), (0.2, 2)):
        config.write_text(f"SOLVER: {{BASE_LR: {rate}}}")
        run_study(study, str(tmp_path / "out"), tick=lambda run: None)
        assert len(trainings) == expected


def test_a_training_that_fails_is_named_with_its_log(trainings, tmp_path):
    (tmp_path / "study.yaml").write_text(STUDY.replace("POS_RADIUS, 1.0", "POS_RADIUS, 13.0"))
    study = load_study(str(tmp_path / "study.yaml"), seeds=[4])
    with pytest.raises(UserError, match="'other one' with seed 4 ended with status 3; see .*terminal.txt"):
        run_study(study, str(tmp_path / "out"), tick=lambda run: None)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("rows: {}", "a mapping with 'rows'"),
        ("{rows: {a: []}, kind: 3}", "'kind' is not a key"),
        ("{rows: {a: []}}", "row 'a' has no config"),
        ("{config: x, rows: {a: [KEY]}}", "not pairs"),
        ("rows: [", "must be a study in YAML; got"),
    ],
)
def test_a_study_that_makes_no_sense_is_told_why(tmp_path, text, words):
    (tmp_path / "study.yaml").write_text(text)
    with pytest.raises(UserError, match=words):
        load_study(str(tmp_path / "study.yaml"))

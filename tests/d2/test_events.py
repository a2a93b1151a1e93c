"""Event storage, its writers and the logger: the same files and lines as Detectron2's."""

import json
import logging

import pytest
import torch

from adet_ext.d2 import ENGINE
from adet_ext.d2.embedded.utils import events as embedded_events
from adet_ext.d2.embedded.utils import logger as embedded_logger
from adet_ext.d2.utils import (
    EventStorage,
    JSONWriter,
    TensorboardXWriter,
    create_small_table,
    get_event_storage,
    has_event_storage,
    setup_logger,
)


def _play(events, folder, iterations=57, timer=True):
    """Put a noisy run into a storage and write every 10 iterations; return the printer's lines."""
    lines = []
    printer = events.CommonMetricPrinter(iterations)
    printer.logger = logging.Logger("printer")
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    printer.logger.addHandler(handler)
    writers = [printer, events.JSONWriter(str(folder / "metrics.json"))]
    noise = torch.Generator().manual_seed(0)
    with events.EventStorage(3) as storage:
        for i in range(3, iterations):
            storage.iter = i
            a, b, t = torch.rand(3, generator=noise).tolist()
            storage.put_scalars(loss_mask=a, loss_box=b, total_loss=a + b)
            storage.put_scalar("lr", 0.01 / (i + 1), smoothing_hint=False)
            storage.put_scalar("[metric]scale", 2.0**i)
            if timer and i > 5:
                storage.put_scalars(time=t, data_time=t / 10)
            if i % 7 == 0:
                storage.put_scalar("sparse", a)
            if i % 20 == 19:
                storage.put_scalar("bbox/AP", b, smoothing_hint=False)
            if i % 10 == 9 or i == iterations - 1:
                for writer in writers:
                    writer.write()
        storage.iter = iterations
        for writer in writers:
            writer.write()
            writer.close()
    return lines


@pytest.mark.needs_detectron2
@pytest.mark.parametrize("timer", [True, False])
def test_metrics_file_and_printed_lines_equal_those_of_detectron2(tmp_path, timer, monkeypatch):
    theirs_events = pytest.importorskip("detectron2.utils.events")
    monkeypatch.setattr("time.perf_counter", iter(range(1000)).__next__)
    (tmp_path / "ours").mkdir()
    (tmp_path / "theirs").mkdir()
    ours = _play(embedded_events, tmp_path / "ours", timer=timer)
    monkeypatch.setattr("time.perf_counter", iter(range(1000)).__next__)
    theirs = _play(theirs_events, tmp_path / "theirs", timer=timer)
    assert ours == theirs and len(ours) == 6
    assert (tmp_path / "ours/metrics.json").read_text() == (tmp_path / "theirs/metrics.json").read_text()


def test_noisy_scalars_are_written_as_medians_of_a_window_of_iterations(tmp_path):
    writer = JSONWriter(str(tmp_path / "metrics.json"), window_size=3)
    with EventStorage() as storage:
        for i, value in enumerate([9.0, 1.0, 2.0, 7.0]):
            storage.iter = i
            storage.put_scalar("noisy", value)
            storage.put_scalar("exact", value, smoothing_hint=False)
        writer.write()
        writer.write()
    writer.close()
    lines = [json.loads(line) for line in (tmp_path / "metrics.json").read_text().splitlines()]
    assert lines == [{"exact": 7.0, "noisy": 2.0, "iteration": 3}]


@pytest.mark.skipif(ENGINE != "embedded", reason="Detectron2 appends to the broken line")
def test_a_line_cut_short_by_a_crash_does_not_spoil_the_next(tmp_path):
    path = tmp_path / "metrics.json"
    path.write_text('{"iteration": 1, "loss": 2.0}\n{"iteration": 2, "lo')
    writer = JSONWriter(str(path))
    with EventStorage(2) as storage:
        storage.put_scalar("loss", 3.0)
        writer.write()
    writer.close()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert lines == [{"iteration": 1, "loss": 2.0}, {"iteration": 2, "loss": 3.0}]


def test_a_value_put_twice_under_one_iteration_counts_twice_in_the_window():
    with EventStorage() as storage:
        for i in (0, 0, 1, 5, 5, 6):
            storage.put_scalar("x", 1.0, cur_iter=i)
        assert storage.count_samples("x", 2) == 3
        assert storage.count_samples("x", 100) == 6


def test_storage_is_reachable_inside_its_block_only_and_scopes_prefix_names():
    assert not has_event_storage()
    with pytest.raises(AssertionError):
        get_event_storage()
    with EventStorage(4) as storage:
        assert get_event_storage() is storage and storage.iter == 4
        with storage.name_scope("rpn"):
            storage.put_scalar("loss", 2)
        storage.put_scalar("loss", 3)
        assert storage.latest() == {"rpn/loss": (2.0, 4), "loss": (3.0, 4)}
        with pytest.raises(AssertionError):
            storage.put_scalar("loss", 3, smoothing_hint=False)
        with pytest.raises(KeyError):
            storage.history("unknown")
    assert not has_event_storage()


def test_tensorboard_gets_scalars_and_images(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    writer = TensorboardXWriter(str(tmp_path))
    with EventStorage() as storage:
        storage.put_scalar("loss", 0.5)
        storage.put_image("picture", torch.zeros(3, 4, 4, dtype=torch.uint8))
        writer.write()
        writer.close()
    read = accumulator.EventAccumulator(str(tmp_path))
    read.Reload()
    assert read.Scalars("loss")[0].value == 0.5
    assert read.Tags()["images"] == ["picture"]


def test_log_goes_to_one_file_per_process(tmp_path):
    for rank in (0, 1):
        logger = setup_logger(str(tmp_path), distributed_rank=rank, name=f"rank{rank}")
        logger.info("hello from %d", rank)
    assert "hello from 0" in (tmp_path / "log.txt").read_text()
    line = (tmp_path / "log.txt.rank1").read_text()
    assert line.endswith("] rank1 INFO: hello from 1\n") and line.startswith("[")


def test_log_is_set_up_once_however_often_it_is_asked_for(tmp_path, capsys):
    for _ in range(3):
        logger = embedded_logger.setup_logger(str(tmp_path), name="repeated", color=False)
    embedded_logger.setup_logger(name="repeated", color=False)
    logger.getChild("part").warning("once")
    assert capsys.readouterr().out.endswith("] repeated.part WARNING: once\n")
    assert (tmp_path / "log.txt").read_text().count("once") == 1


def test_terminal_shows_short_names_and_marks_warnings(capsys):
    logger = embedded_logger.setup_logger(name="adet_ext.loud", abbrev_name="loud")
    logger.getChild("part").warning("careful")
    embedded_logger.setup_logger(name="adet_ext.d2.embedded.engine").info("hello")
    lines = capsys.readouterr().out.splitlines()
    assert "WARNING" in lines[0] and "loud.part]: " in lines[0] and "adet_ext" not in lines[0]
    assert "d2.engine]: " in lines[1]


def test_small_table_has_one_row_under_its_names():
    rows = create_small_table({"AP": 12.3456, "AP50": 30.0}).splitlines()
    assert len(rows) == 3 and "12.346" in rows[2] and "AP50" in rows[0]

"""The costs of a frame: counted against convolutions that are counted by hand, timed, and printed."""

from video_cells.__main__ import main
from video_cells.cost import count_frame, time_frames


def test_a_later_frame_costs_the_encoder_and_the_cell_alone(tiny_config, cell_file):
    cfg = tiny_config("MODEL.VIDEO.CELL", cell_file([[1, 2, 4, 0, 0]]))
    first, later = (count_frame(cfg, 64, 96, is_later) for is_later in (False, True))
    assert first.multiply_adds["model.backbone"] == later.multiply_adds["model.backbone"] > 0
    assert first.multiply_adds["model.cell"] == later.multiply_adds["model.decoder"] == 0
    # Adapters of dec and layer 2, a separable convolution, the projection and the classifier, at 8 x 12 places.
    by_hand = 8 * 12 * (8 * 8 + 32 * 8 + (9 * 8 + 8 * 8) + 8 * 8 + 9 * 8 * 3)
    assert later.multiply_adds["model.cell"] == by_hand


def test_both_frames_are_timed_round_by_round(tiny_config, cell_file):
    first, later = time_frames(tiny_config("MODEL.VIDEO.CELL", cell_file()), 32, 32, rounds=2, warmup=0)
    assert len(first) == len(later) == 2 and min(first + later) > 0


def test_the_command_prints_a_table(tiny_config, cell_file, tmp_path, capsys):
    (tmp_path / "a.yaml").write_text(tiny_config("MODEL.VIDEO.CELL", cell_file()).dump())
    words = ["cost", "--config-file", str(tmp_path / "a.yaml"), "--rounds", "1", "--size"]
    assert main([*words, "64x32"]) == 0
    said = capsys.readouterr().out
    assert "64 x 32" in said and "static" in said and "1 rounds" in said
    assert main([*words, "64x3"]) == 2
    assert "--size must be WIDTHxHEIGHT" in capsys.readouterr().err

"""Semantic models in the demo: videos and folders of frames, streamed, with and without a state."""

import gc
import logging
from fractions import Fraction
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from adet_ext.cli.demo import main
from adet_ext.config import get_cfg
from adet_ext.engine.predictor import Predictor
from adet_ext.engine.streaming import FramePredictor
from adet_ext.errors import UserError
from adet_ext.utils import video
from adet_ext.visualize.semantic_video import SemanticPainter

CONFIG = ["--config-file", "unused.yaml", "--class-names", "blue", "green", "red"]


class Brightest(nn.Module):
    """The class of a pixel is its brightest channel."""

    def forward(self, inputs):
        return [{"sem_seg": F.interpolate(x["image"][None], (x["height"], x["width"]))[0]} for x in inputs]


class FirstWins(nn.Module):
    """Scores are those of the first frame of a video, at half the size; counts its first frames."""

    def __init__(self):
        super().__init__()
        self.starts, self.frames = 0, 0

    def step(self, image, state):
        assert image.dtype == torch.uint8 and torch.is_inference_mode_enabled() and not self.training
        self.frames += 1
        self.starts += state is None
        scores = F.avg_pool2d(image.float(), 2) if state is None else state
        return scores, scores


def predictor(model):
    cfg = get_cfg()
    cfg.INPUT.MIN_SIZE_TEST = 0
    return Predictor(cfg, model)


def flat(channel, height=32, width=48):
    frame = np.full((height, width, 3), 20, np.uint8)
    frame[..., channel] = 220
    return frame


def write_frames(folder, frames):
    folder.mkdir()
    for number, frame in enumerate(frames, start=8):  # 9 before 10
        cv2.imwrite(str(folder / f"{number}.png"), frame)
    return folder


def maps(folder):
    return {path.stem: np.unique(cv2.imread(str(path), cv2.IMREAD_UNCHANGED)).tolist() for path in folder.iterdir()}


def test_a_model_without_a_state_sees_every_frame_alone(tmp_path, capsys):
    frames = write_frames(tmp_path / "in", [flat(0), flat(1), flat(2)])
    out, labels = tmp_path / "out", tmp_path / "labels"
    arguments = ["--video-input", str(frames), "--output", str(out), "--label-maps", str(labels)]
    assert main([*CONFIG, *arguments], predictor(Brightest())) == 0
    assert maps(labels) == {"8": [0], "9": [1], "10": [2]}
    assert cv2.imread(str(labels / "8.png"), cv2.IMREAD_UNCHANGED).shape == (32, 48)
    with video.VideoReader(str(out / "in.mp4")) as reader:
        drawn = list(reader)
    assert len(drawn) == 3 and drawn[0].shape[0] > 32 and drawn[0].shape[1] == 48  # a legend below
    printed = capsys.readouterr().out
    assert "3 frames" in printed and all(part in printed for part in ("read", "network", "draw", "write"))


def test_a_state_goes_from_frame_to_frame_and_a_frame_of_another_size_starts_anew(tmp_path):
    frames = [flat(1), flat(2), flat(2), flat(0, 40, 40), flat(1, 40, 40)]
    folder, labels = write_frames(tmp_path / "in", frames), tmp_path / "labels"
    out = tmp_path / "out.mp4"
    model = FirstWins()
    main([*CONFIG, "--video-input", str(folder), "--label-maps", str(labels), "--output", str(out)], predictor(model))
    assert maps(labels) == {"8": [1], "9": [1], "10": [1], "11": [0], "12": [0]} and model.starts == 2
    assert cv2.imread(str(labels / "11.png"), cv2.IMREAD_UNCHANGED).shape == (40, 40)
    with video.VideoReader(str(out)) as reader:
        assert len({frame.shape for frame in reader}) == 1


def test_static_is_shown_beside_dynamic(tmp_path):
    folder, out = write_frames(tmp_path / "in", [flat(1), flat(2)]), tmp_path / "out.mp4"
    model = FirstWins()
    main([*CONFIG, "--video-input", str(folder), "--output", str(out), "--side-by-side"], predictor(model))
    assert (model.frames, model.starts) == (4, 3)
    with video.VideoReader(str(out)) as reader:
        last = list(reader)[-1]
    assert last.shape[1] == 96
    left, right = last[25:40, :48].reshape(-1, 3).mean(0), last[25:40, 48:].reshape(-1, 3).mean(0)
    painter = SemanticPainter(SimpleNamespace(), 3)
    for side, label in ((left, 2), (right, 1)):
        expected = painter.overlay(flat(2), np.full((32, 48), label, np.uint8))[0, 0]
        assert np.abs(side - expected).max() < 12
    with pytest.raises(UserError, match="--side-by-side needs a model"):
        main([*CONFIG, "--video-input", str(folder), "--output", str(out), "--side-by-side"], predictor(Brightest()))


def test_a_broken_frame_is_named_and_skipped(tmp_path, caplog, capsys):
    folder, labels = write_frames(tmp_path / "in", [flat(0), flat(1), flat(2)]), tmp_path / "labels"
    (folder / "9.png").write_bytes(b"cut off")
    with caplog.at_level(logging.WARNING):
        status = main([*CONFIG, "--video-input", str(folder), "--label-maps", str(labels)], predictor(Brightest()))
    assert status == 1 and set(maps(labels)) == {"8", "10"}
    assert "9.png: cannot be read" in caplog.text and "1 frame could not be read" in capsys.readouterr().err


def test_images_are_first_frames(tmp_path):
    folder, out = write_frames(tmp_path / "in", [flat(1), flat(2)]), tmp_path / "out"
    model = FirstWins()
    assert main([*CONFIG, "--input", str(folder), "--output", str(out)], predictor(model)) == 0
    assert model.starts == 2 and len(list(out.iterdir())) == 2


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (["--video-input", "{folder}", "--label-maps", "{folder}"], "--label-maps .* is the folder of the frames"),
        (["--input", "{folder}", "--output", "o", "--label-maps", "l"], "--label-maps needs --video-input"),
        (["--input", "{folder}", "--output", "o", "--side-by-side"], "--side-by-side needs --video-input"),
        (["--video-input", "{folder}/none", "--output", "o"], "none: there is no such video"),
        (["--video-input", "{folder}/empty", "--output", "o"], "empty: there is no image"),
        (["--video-input", "{folder}"], "there is nothing to write"),
    ],
)
def test_wrong_arguments_are_one_sentence(tmp_path, monkeypatch, arguments, sentence):
    folder = write_frames(tmp_path / "in", [flat(0)])
    (folder / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=sentence):
        main([*CONFIG, *(a.format(folder=folder) for a in arguments)], predictor(Brightest()))


def test_json_needs_instances_and_label_maps_need_classes(tmp_path):
    folder = write_frames(tmp_path / "in", [flat(0)])
    with pytest.raises(UserError, match="--json needs a model that predicts instances; this one gives sem_seg"):
        main([*CONFIG, "--video-input", str(folder), "--json", str(tmp_path / "a.json")], predictor(Brightest()))


def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096


def test_memory_does_not_grow_with_the_video(tmp_path):
    """At the 100th and the 1000th frame within 2 %; 900 frames have 17 MB, their scores 66 MB."""
    pytest.importorskip("resource")  # /proc is Linux'
    source, count, seen = tmp_path / "in.avi", 1000, {}
    picture = np.zeros((64, 96, 3), np.uint8)
    video.convert((np.roll(picture, t, 1) for t in range(count)), str(source), fps=Fraction(25))

    class Watched(FirstWins):
        def step(self, image, state):
            if self.frames in (100, 999):
                gc.collect()
                seen[self.frames] = resident()
            return super().step(image, state)

    arguments = ["--video-input", str(source), "--output", str(tmp_path / "out.avi")]
    assert main([*CONFIG, *arguments], predictor(Watched())) == 0
    assert len(seen) == 2 and seen[999] - seen[100] < min(0.02 * seen[100], 8e6)


def test_a_stream_takes_channels_and_size_as_the_config_says():
    class Seen(nn.Module):
        def step(self, image, state):
            self.image = image
            return image.float(), state

    cfg = get_cfg()
    cfg.INPUT.FORMAT, cfg.INPUT.SEMANTIC.LONGER_SIDE = "RGB", 24
    model = Seen()
    outputs = FramePredictor(Predictor(cfg, model))(flat(0))
    assert model.image.shape == (3, 16, 24) and outputs["sem_seg"].shape == (3, 32, 48)
    assert (model.image[2] == 220).all() and (outputs["sem_seg"].argmax(0) == 2).all()


def test_a_legend_has_a_line_more_where_the_names_do_not_fit():
    names = [f"a long name {i}" for i in range(8)]
    painter = SemanticPainter(SimpleNamespace(stuff_classes=names, stuff_colors=[(10 * i, 0, 0) for i in range(8)]), 8)
    wide, narrow = painter.with_legend(flat(0, 20, 1200)), painter.with_legend(flat(0, 20, 200))
    assert narrow.shape[0] > wide.shape[0] > 20 and np.array_equal(narrow[:20], flat(0, 20, 200))

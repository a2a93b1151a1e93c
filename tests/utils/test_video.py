import importlib.util
from fractions import Fraction

import numpy as np
import pytest

from adet_ext.errors import UserError
from adet_ext.utils import video
from adet_ext.utils.video import VideoReader, convert

BACKENDS = ["opencv"] + (["pyav"] if importlib.util.find_spec("av") else [])


@pytest.fixture(params=BACKENDS)
def backend(request, monkeypatch):
    monkeypatch.setattr(video, "backend", lambda: request.param)
    return request.param


def moving_square(count, height=48, width=64):
    for index in range(count):
        frame = np.full((height, width, 3), 40, dtype=np.uint8)
        frame[10:30, 2 * index : 2 * index + 20] = (230, 120, 60)
        yield frame


@pytest.mark.parametrize("suffix", [".mp4", ".avi"])
def test_frames_rate_and_size_survive_writing_and_reading(tmp_path, backend, suffix):
    path = str(tmp_path / f"clip{suffix}")
    rate = Fraction(30000, 1001)
    assert convert(moving_square(9), path, fps=rate) == 9
    with VideoReader(path) as reader:
        frames = list(reader)
        assert abs(float(reader.fps - rate)) < 0.01
    assert len(frames) == 9 and frames[0].shape == (48, 64, 3)
    for read, written in zip(frames, moving_square(9)):
        assert np.abs(read.astype(int) - written).mean() < 6  # the codec loses a little, never a frame


def test_odd_sides_are_padded_by_one(tmp_path, backend):
    path = str(tmp_path / "odd.mp4")
    convert(moving_square(3, 47, 63), path, fps=Fraction(10))
    with VideoReader(path) as reader:
        assert next(iter(reader)).shape == (48, 64, 3)


def test_the_change_is_applied_to_every_frame_and_the_rate_is_the_sources(tmp_path, backend):
    first, second = str(tmp_path / "a.mp4"), str(tmp_path / "b.mp4")
    convert(moving_square(4), first, fps=Fraction(12))
    with VideoReader(first) as source:
        assert convert(source, second, lambda frame: np.full_like(frame, 200)) == 4
    with VideoReader(second) as reader:
        assert reader.fps == 12
        assert all(abs(int(frame.mean()) - 200) < 6 for frame in reader)


def test_a_failing_change_leaves_what_was_there(tmp_path, backend):
    path = tmp_path / "clip.mp4"
    path.write_bytes(b"precious")

    def fail(frame):
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        convert(moving_square(2), str(path), fail, fps=Fraction(10))
    assert path.read_bytes() == b"precious" and len(list(tmp_path.iterdir())) == 1


def test_no_video_is_a_sentence_naming_the_file(tmp_path, backend):
    with pytest.raises(UserError, match="absent.mp4"):
        VideoReader(str(tmp_path / "absent.mp4"))
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(UserError, match="text.mp4"):
        list(VideoReader(str(tmp_path / "text.mp4")))
    with pytest.raises(UserError, match="clip.txt.*mp4"):
        convert(moving_square(1), str(tmp_path / "clip.txt"), fps=Fraction(10))
    with pytest.raises(UserError, match="no frame"):
        convert(iter(()), str(tmp_path / "clip.mp4"), fps=Fraction(10))


def test_an_unwritable_place_is_a_sentence(tmp_path, backend):
    with pytest.raises(UserError, match="clip.mp4"):
        convert(moving_square(1), str(tmp_path / "absent" / "clip.mp4"), fps=Fraction(10))

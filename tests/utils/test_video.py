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


def test_a_frame_of_another_size_is_fitted_into_the_first_ones(tmp_path, backend):
    path = str(tmp_path / "clip.avi")
    with video.video_writer(path, Fraction(10)) as write:
        write(np.full((48, 64, 3), 200, np.uint8))
        write(np.full((48, 32, 3), 200, np.uint8))
    with VideoReader(path) as reader:
        first, second = reader
    assert first.shape == second.shape == (48, 64, 3)
    assert second[:, 20:44].mean() > 180 and second[:, :12].mean() < 20 and second[:, -12:].mean() < 20


def test_broken_frames_are_counted_and_the_others_keep_their_numbers(tmp_path, monkeypatch, caplog):
    frames = list(moving_square(4))
    path = str(tmp_path / "clip.avi")
    convert(frames, path, fps=Fraction(10))

    class Damaged:
        """Cannot decode frame 1."""

        reads = iter([(True, frames[0]), (False, None), (True, frames[2]), (True, frames[3])])

        def read(self):
            return next(self.reads, (False, None))

        def release(self):
            pass

    monkeypatch.setattr(video, "backend", lambda: "opencv")
    with VideoReader(path) as reader:
        reader._source.release()
        reader._source = Damaged()
        names = [reader.name for _ in reader]
        assert names == ["000000", "000002", "000003"] and reader.broken == 1
    assert "clip.avi: frame 1 is broken" in caplog.text


def test_damage_in_a_file_costs_the_damaged_frame_alone(tmp_path, monkeypatch, caplog):
    av = pytest.importorskip("av")
    monkeypatch.setattr(video, "backend", lambda: "pyav")
    path = tmp_path / "clip.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=10)  # every frame a picture of its own
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p"
        for frame in moving_square(6):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="bgr24")))
        container.mux(stream.encode())
    with av.open(str(path)) as container:
        packet = [p for p in container.demux(video=0) if p.size][2]
        start, size = packet.pos, packet.size
    content = bytearray(path.read_bytes())
    content[start : start + size] = bytes(size)
    path.write_bytes(bytes(content))
    with VideoReader(str(path)) as reader:
        names = [reader.name for _ in reader]
    assert names == ["000000", "000001", "000003", "000004", "000005"] and reader.broken == 1
    assert "clip.mp4: frame 2 is broken" in caplog.text

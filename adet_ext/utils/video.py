"""Read and write videos with PyAV, or with OpenCV if PyAV is not installed.

Frames are BGR uint8 [H, W, 3]. Sound is not kept.
"""

import contextlib
import importlib.util
import logging
import os
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

import cv2
import numpy as np

from ..errors import UserError
from .files import written_beside

__all__ = ["SUFFIXES", "VideoReader", "backend", "check_suffix", "convert", "video_writer"]

logger = logging.getLogger(__name__)

_RETRIES = 8  # reads in vain after which OpenCV is at the end
SUFFIXES = (".mp4", ".mov", ".mkv", ".avi", ".webm", ".m4v")


def backend() -> str:
    """Return the library in use: "pyav" or "opencv"."""
    return "pyav" if importlib.util.find_spec("av") else "opencv"


class VideoReader:
    """The frames of a video, in order; iterate over it once.

    A frame that cannot be decoded is named in a warning, counted in ``broken`` and left out.

    Attributes:
        fps: frames per second, a Fraction; 25 if the file does not say.
        frames: the number of frames that the file states; 0 if it does not.
        name: of the frame given last, its number with six digits, counted from 0 with the broken ones.
        broken: frames left out until now.
    """

    def __init__(self, path: str):
        """Open ``path``. Raise UserError if it is missing or not a video."""
        if not os.path.isfile(path):
            raise UserError(f"{path}: there is no such video file")
        self.path = path
        self.name, self.broken = "", 0
        self._pyav = backend() == "pyav"
        if self._pyav:
            self._open_pyav()
        else:
            self._open_opencv()

    def _open_pyav(self) -> None:
        import av

        try:
            self._source = av.open(self.path)
        except (av.error.FFmpegError, OSError) as error:
            raise UserError(f"{self.path}: cannot be read as a video: {error}") from error
        if not self._source.streams.video:
            raise UserError(f"{self.path}: there is no picture in it")
        stream = self._source.streams.video[0]
        stream.thread_type = "AUTO"
        self.fps = Fraction(stream.average_rate or stream.guessed_rate or 25)
        self.frames = int(stream.frames or 0)

    def _open_opencv(self) -> None:
        self._source = cv2.VideoCapture(self.path)
        if not self._source.isOpened():
            raise UserError(f"{self.path}: cannot be read as a video")
        self.fps = Fraction(self._source.get(cv2.CAP_PROP_FPS) or 25).limit_denominator(1001)
        self.frames = max(0, int(self._source.get(cv2.CAP_PROP_FRAME_COUNT)))

    def __iter__(self) -> Iterator[np.ndarray]:
        number = 0
        for frame in self._iterate_pyav() if self._pyav else self._iterate_opencv():
            if frame is None:
                self.broken += 1
                logger.warning("%s: frame %d is broken and left out", self.path, number)
            else:
                self.name = f"{number:06d}"
                yield frame
            number += 1
        if self._pyav and number < self.frames:  # OpenCV's number is an estimate for some formats
            logger.warning("%s: it states %d frames, but has %d", self.path, self.frames, number)

    def _iterate_pyav(self) -> Iterator[np.ndarray | None]:
        """Frames, None for each packet or frame that is broken."""
        import av

        packets = self._source.demux(video=0)
        while True:
            try:
                packet = next(packets, None)
            except av.error.FFmpegError as error:
                logger.warning("%s: the file is broken here, and the rest is left out: %s", self.path, error)
                return
            if packet is None:
                return
            try:
                frames = packet.decode()
            except av.error.FFmpegError:
                yield None
                continue
            for frame in frames:
                yield None if getattr(frame, "is_corrupt", False) else _upright(frame)

    def _iterate_opencv(self) -> Iterator[np.ndarray | None]:
        """Frames, None for those that cannot be read but are followed by others: the stated number may be wrong."""
        failed = 0
        while failed <= _RETRIES:
            read, frame = self._source.read()
            if not read:
                failed += 1
                continue
            yield from [None] * failed
            failed = 0
            yield frame

    def close(self) -> None:
        """Close the file."""
        self._source.close() if self._pyav else self._source.release()

    def __enter__(self) -> "VideoReader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _upright(frame: Any) -> np.ndarray:
    image = frame.to_ndarray(format="bgr24")
    # Phones store films without rotation and state by how much to rotate them (degrees, counterclockwise).
    turns = round(getattr(frame, "rotation", 0) / 90) % 4
    return np.ascontiguousarray(np.rot90(image, turns)) if turns else image


class _PyavWriter:
    """Write frames with the first codec of the format's list that this build of FFmpeg has."""

    def __init__(self, path: str, fps: Fraction, size: tuple[int, int]):
        import av

        wanted = {".webm": ("libvpx-vp9", "libvpx"), ".avi": ("mpeg4",)}.get(_suffix(path), ("libx264", "mpeg4"))
        codec = next((name for name in wanted if name in av.codecs_available), wanted[-1])
        self._av, self._container = av, av.open(path, "w")
        self._stream = self._container.add_stream(codec, rate=fps)
        self._stream.height, self._stream.width = size
        self._stream.pix_fmt = "yuv420p"  # the only format that all players and browsers show
        if codec == "libx264":
            self._stream.options = {"crf": "18", "preset": "veryfast"}
        elif codec == "mpeg4":
            self._stream.bit_rate = int(size[0] * size[1] * float(fps) * 0.25)

    def write(self, frame: np.ndarray) -> None:
        for packet in self._stream.encode(self._av.VideoFrame.from_ndarray(frame, format="bgr24")):
            self._container.mux(packet)

    def close(self) -> None:
        for packet in self._stream.encode():
            self._container.mux(packet)
        self._container.close()


class _OpencvWriter:
    """Write frames with the codec that OpenCV's wheels always have for the format."""

    def __init__(self, path: str, fps: Fraction, size: tuple[int, int]):
        code = {".webm": "VP80", ".avi": "MJPG"}.get(_suffix(path), "mp4v")
        self._writer = cv2.VideoWriter(path, cv2.VideoWriter_fourcc(*code), float(fps), size[::-1])
        if not self._writer.isOpened():
            raise OSError(f"OpenCV has no encoder for {_suffix(path)} files; write .mp4, or install PyAV")
        self.write, self.close = self._writer.write, self._writer.release


def _suffix(path: str) -> str:
    return os.path.splitext(path)[1].lower()


def _even(frame: np.ndarray) -> np.ndarray:
    """Repeat the last row or column if a side is odd. Colors have half the resolution, which needs even sides."""
    height, width = frame.shape[:2]
    return np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")


def _fitted(frame: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return the frame scaled into (H, W), in its proportions, on black."""
    if frame.shape[:2] == size:
        return frame
    scale = min(size[0] / frame.shape[0], size[1] / frame.shape[1])
    height, width = (max(1, min(round(scale * side), limit)) for side, limit in zip(frame.shape, size))
    canvas = np.zeros((*size, 3), np.uint8)
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    canvas[top : top + height, left : left + width] = cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA)
    return canvas


@contextlib.contextmanager
def video_writer(path: str, fps: Fraction, source: str = "the source") -> Iterator[Callable[[np.ndarray], None]]:
    """Give a function that writes a BGR uint8 frame to the video ``path``.

    The file is written beside ``path``, read back at the end, and renamed if it has all frames. Frames of another size
    than the first are scaled into its size.

    Args:
        path: .mp4, .mov, .mkv, .m4v, .avi or .webm.
        source: where the frames come from, for the message if there are none.

    Raises:
        UserError: the suffix is unknown, there was no frame, or the file cannot be written or read back.
    """
    check_suffix(path)
    writer, size, count = None, (0, 0), 0

    def write(frame: np.ndarray) -> None:
        nonlocal writer, size, count
        if writer is None:
            frame = _even(frame)
            size = frame.shape[:2]
            writer = (_PyavWriter if backend() == "pyav" else _OpencvWriter)(beside, fps, size)
        writer.write(np.ascontiguousarray(_fitted(_even(frame), size)))
        count += 1

    with written_beside(path) as beside:
        try:
            yield write
        finally:
            if writer is not None:
                writer.close()
        if not count:
            raise UserError(f"{source}: no frame could be read")
        with VideoReader(beside) as written:
            readable = sum(1 for _ in written)
        if readable != count:
            raise UserError(f"{path}: only {readable} of {count} frames could be read back; is the disk full?")


def check_suffix(path: str) -> None:
    """Raise UserError unless ``path`` ends as a video that can be written."""
    if _suffix(path) not in SUFFIXES:
        raise UserError(f"{path}: cannot be written as a video; use one of {', '.join(SUFFIXES)}")


def convert(
    source: VideoReader | Any,
    path: str,
    change: Callable[[np.ndarray], np.ndarray] = lambda frame: frame,
    *,
    fps: Fraction | None = None,
) -> int:
    """Apply ``change`` to every frame of ``source``, write them to the video ``path``, and return their number.

    Args:
        source: a VideoReader, or any iterable of BGR uint8 frames together with ``fps``.
        path: see :func:`video_writer`.
        change: makes the new frame.
        fps: frames per second; by default the source's.

    Raises:
        UserError: see :func:`video_writer`.
    """
    check_suffix(path)
    count = 0
    with video_writer(path, Fraction(fps if fps is not None else source.fps), _name_of(source)) as write:
        for frame in source:
            write(change(frame))
            count += 1
    return count


def _name_of(source: Any) -> str:
    return getattr(source, "path", "the source")

"""Videos and folders of frames, read in one way."""

import logging
import os
from collections.abc import Iterator
from fractions import Fraction

import numpy as np

from ..errors import UserError
from .image_io import IMAGE_SUFFIXES, read_image, sort_frames
from .video import VideoReader

__all__ = ["FolderReader", "open_frames"]

logger = logging.getLogger(__name__)


def open_frames(path: str) -> "FolderReader | VideoReader":
    """Open a video file or a folder of frames.

    Raises:
        UserError: it is missing, no video, or a folder without images.
    """
    return FolderReader(path) if os.path.isdir(path) else VideoReader(path)


class FolderReader:
    """The images of a folder in the order of their numbers, read as :class:`~.video.VideoReader` reads a video.

    A frame that cannot be read is named in a warning, counted in ``broken`` and left out.

    Attributes:
        fps: 25, as a folder states no rate.
        frames: the number of images.
        name: of the frame given last, its file name without the suffix.
        broken: frames left out until now.
    """

    def __init__(self, path: str):
        """Raise UserError if there is no image in ``path``."""
        self.path = path
        self._names = sort_frames([name for name in os.listdir(path) if name.lower().endswith(IMAGE_SUFFIXES)])
        if not self._names:
            raise UserError(f"{path}: there is no image in this folder ({', '.join(IMAGE_SUFFIXES)})")
        self.fps, self.frames = Fraction(25), len(self._names)
        self.name, self.broken = "", 0

    def __iter__(self) -> Iterator[np.ndarray]:
        for name in self._names:
            try:
                frame = read_image(os.path.join(self.path, name))
            except UserError as error:
                self.broken += 1
                logger.warning("%s; the frame is left out", error)
                continue
            self.name = os.path.splitext(name)[0]
            yield frame

    def __enter__(self) -> "FolderReader":
        return self

    def __exit__(self, *_: object) -> None:
        pass

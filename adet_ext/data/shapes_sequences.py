"""The built-in moving shapes: sequences of frames with a class for every pixel, made when they are read.

The file names start with ``moving-shapes://``, which the path manager can read:

    moving-shapes://seed0-128x128-n100x8/images/000003/000007.png    RGB, frame 7 of sequence 3
    moving-shapes://seed0-128x128-n100x8/labels/000003/000007.png    0..5: shapes, 6..8: backgrounds

``shapes_video_train`` and ``shapes_video_val`` (sequences), ``shapes_sem_seg_train`` and ``shapes_sem_seg_val`` (their
frames as single images) are registered on import. A sequence is a function of the seed, the size and its number alone.
"""

import dataclasses
import functools
import io
import os
import re

import numpy as np

from ..d2.utils import PathHandler, PathManager
from ..errors import UserError
from ..utils.files import written_beside
from .catalog import process_folder
from .semantic_sets import Run, register_semantic, semantic_name
from .shapes import png_of
from .shapes_content import STUFF_COLORS, THING_COLORS
from .shapes_scene import STUFF_CLASSES, THING_CLASSES
from .shapes_video import Movie

__all__ = ["CLASSES", "SequencesSpec", "register_shapes_video"]

PREFIX = "moving-shapes://"
CLASSES = (*THING_CLASSES, *STUFF_CLASSES)
_PATH = re.compile(PREFIX + r"seed(\d+)-(\d+)x(\d+)-n(\d+)x(\d+)/(images|labels)/(\d+)/(\d+)\.png$")


@dataclasses.dataclass(frozen=True)
class SequencesSpec:
    """One split: ``sequences`` of ``frames`` frames, ``height`` x ``width`` pixels, drawn with ``seed``."""

    sequences: int
    frames: int
    height: int
    width: int
    seed: int

    def __post_init__(self) -> None:
        if min(self.sequences, self.frames) < 1 or min(self.height, self.width) < 32 or self.seed < 0:
            raise UserError(
                "moving shapes need at least 1 sequence of 1 frame of 32 x 32 pixels and a seed >= 0; got "
                f"{self.sequences} of {self.frames} frames of {self.height} x {self.width}, seed {self.seed}"
            )

    @property
    def root(self) -> str:
        return f"{PREFIX}seed{self.seed}-{self.height}x{self.width}-n{self.sequences}x{self.frames}"

    def path(self, kind: str, sequence: int, frame: int) -> str:
        return f"{self.root}/{kind}/{sequence:06d}/{frame:06d}.png"

    def runs(self, label_every: int = 1) -> list[Run]:
        """Return all sequences. Frames 0, ``label_every``, ... have labels."""
        return [
            Run(
                f"{number:06d}",
                [self.path("images", number, t) for t in range(self.frames)],
                [None if t % label_every else self.path("labels", number, t) for t in range(self.frames)],
            )
            for number in range(self.sequences)
        ]


def register_shapes_video(
    name: str,
    sequences: int,
    frames: int,
    size: int | tuple[int, int] = 128,
    seed: int = 0,
    *,
    label_every: int = 1,
    images: bool = False,
) -> SequencesSpec:
    """Register moving shapes under ``name``, and forget what was registered there before.

    Args:
        size: side in pixels, or (height, width).
        seed: splits with different seeds share no sequence.
        label_every: give labels to every so manieth frame, from the first on.
        images: register the frames with labels as single images.
    """
    height, width = (size, size) if isinstance(size, int) else size
    spec = SequencesSpec(sequences, frames, height, width, seed)
    colors = (*THING_COLORS, *STUFF_COLORS)
    register_semantic(name, functools.partial(spec.runs, label_every), CLASSES, colors, images=images, root=spec.root)
    return spec


@functools.lru_cache(maxsize=8)
def _movie(size: tuple[int, int], seed: int, sequence: int) -> Movie:
    # Seeds of sequences are spread, so that splits with seeds 0 and 1 share none.
    return Movie(size, int(np.random.SeedSequence([seed, sequence]).generate_state(1)[0]) % 2**31)


def _content(path: str) -> bytes:
    match = _PATH.match(path)
    if not match:
        raise FileNotFoundError(f"{path}: moving shapes have no such file")
    seed, height, width, sequences, frames = (int(group) for group in match.groups()[:5])
    sequence, number = int(match[7]), int(match[8])
    if sequence >= sequences or number >= frames:
        raise FileNotFoundError(f"{path}: moving shapes have no such file")
    frame = _movie((height, width), seed, sequence).frame(number)
    if match[6] == "images":
        return png_of(frame.image)
    classes = np.zeros(256, np.uint8)  # by segment id
    for segment in frame.segments_info:
        classes[segment["id"]] = segment["category_id"] - 1
    return png_of(classes[frame.panoptic])


class _Handler(PathHandler):
    """Read ``moving-shapes://`` paths. A local copy is removed when the process ends."""

    def _get_supported_prefixes(self) -> list[str]:
        return [PREFIX]

    def _isfile(self, path: str, **kwargs) -> bool:
        return bool(_PATH.match(path))

    def _exists(self, path: str, **kwargs) -> bool:
        return self._isfile(path)

    def _open(self, path: str, mode: str = "r", buffering: int = -1, **kwargs):
        if mode != "rb":
            raise UserError(f"{path}: moving shapes are images, made on the fly; they can only be read, as bytes")
        return io.BytesIO(_content(path))

    def _get_local_path(self, path: str, force: bool = False, **kwargs) -> str:
        local = os.path.join(_local_folder(os.getpid()), path[len(PREFIX) :])
        if not os.path.exists(local):
            os.makedirs(os.path.dirname(local), exist_ok=True)
            with written_beside(local) as beside, open(beside, "wb") as file:
                file.write(_content(path))
        return local


@functools.cache
def _local_folder(process: int) -> str:
    return process_folder()


PathManager.register_handler(_Handler(), allow_override=True)
for _images in (False, True):
    register_shapes_video(semantic_name("shapes", "train", images=_images), 200, 6, seed=0, images=_images)
    register_shapes_video(semantic_name("shapes", "val", images=_images), 20, 6, seed=1, images=_images)

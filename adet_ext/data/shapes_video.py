"""Short videos of moving shapes, with labels for every frame.

Shapes: T frames; H, W frame size in pixels. Shapes drift, turn and bounce off the borders; the camera pans over the
textured background. An instance keeps its segment id in all frames, also after it was hidden.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np

from ..errors import UserError
from .shapes_content import dense_labels
from .shapes_scene import Backdrop, Shape, compose, paint, random_backdrop, random_scene

__all__ = ["Movie", "VideoFrame", "shapes_video"]


@dataclasses.dataclass(frozen=True)
class VideoFrame:
    """One frame: ``image`` RGB uint8 [H, W, 3]; the labels are those of :func:`adet_ext.data.shapes.shapes_labels`."""

    image: np.ndarray
    sem_seg: np.ndarray
    panoptic: np.ndarray
    segments_info: list[dict]


def shapes_video(num_frames: int, size: int | tuple[int, int] = 128, seed: int = 0) -> Iterator[VideoFrame]:
    """Yield ``num_frames`` frames of one video, which depends on ``size`` (side, or height and width) and ``seed``.

    Frame t does not depend on ``num_frames``.

    Raises:
        UserError: fewer than one frame, or frames smaller than 32 pixels.
    """
    if num_frames < 1:
        raise UserError(f"a video must have at least 1 frame; got {num_frames}")
    movie = Movie(size, seed)
    for t in range(num_frames):
        yield movie.frame(t)


class Movie:
    """A video without an end, any frame of which can be made alone.

    Args:
        size: side in pixels, or (height, width).

    Raises:
        UserError: frames smaller than 32 pixels.
    """

    def __init__(self, size: int | tuple[int, int] = 128, seed: int = 0):
        self.size = height, width = (size, size) if isinstance(size, int) else size
        if min(height, width) < 32:
            raise UserError(f"frames of a video must be at least 32 x 32 pixels; got {height} x {width}")
        self.seed = seed
        rng = np.random.RandomState([seed, height, width, 3])
        unit = min(height, width)
        self._shapes = random_scene(rng, height, width).shapes
        self._moves = [(*rng.uniform(-0.02, 0.02, 2) * unit, rng.uniform(-0.08, 0.08)) for _ in self._shapes]
        # The camera moves over a world larger than the frame.
        self._margin = unit // 4
        self._world = random_backdrop(rng, height + 2 * self._margin, width + 2 * self._margin)
        self._pan, self._phase = rng.uniform(0.02, 0.06, 2), rng.uniform(0, 2 * np.pi, 2)

    def frame(self, t: int) -> VideoFrame:
        """Return frame ``t``, counted from 0."""
        height, width = self.size
        shapes = [_moved(s, t, move, height, width) for s, move in zip(self._shapes, self._moves)]
        top, left = np.rint(self._margin * (1 + 0.95 * np.sin(self._pan * t + self._phase))).astype(int)
        window = slice(top, top + height), slice(left, left + width)
        backdrop = Backdrop(self._world.texture[window], self._world.stuff[window])
        scene = compose(shapes, height, width)
        image = paint(np.random.RandomState([self.seed, height, width, 4, t]), scene, backdrop, steady=True)
        return VideoFrame(image, *dense_labels(scene, backdrop.stuff))


def _moved(shape: Shape, t: int, move: tuple[float, float, float], height: int, width: int) -> Shape:
    dx, dy, turn = move
    return dataclasses.replace(
        shape,
        x=_bounced(shape.x + t * dx, width),
        y=_bounced(shape.y + t * dy, height),
        angle=shape.angle + t * turn,
    )


def _bounced(position: float, length: int) -> float:
    """Fold a straight path back into [0, length]."""
    position = position % (2 * length)
    return position if position <= length else 2 * length - position

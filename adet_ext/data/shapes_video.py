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

__all__ = ["VideoFrame", "shapes_video"]


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
    height, width = (size, size) if isinstance(size, int) else size
    if num_frames < 1 or min(height, width) < 32:
        raise UserError(f"a video needs at least 1 frame of 32 x 32; got {num_frames} of {height} x {width}")
    rng = np.random.RandomState([seed, height, width, 3])
    unit = min(height, width)
    scene = random_scene(rng, height, width)
    moves = [(*rng.uniform(-0.02, 0.02, 2) * unit, rng.uniform(-0.08, 0.08)) for _ in scene.shapes]
    # The camera moves over a world larger than the frame.
    margin = unit // 4
    world = random_backdrop(rng, height + 2 * margin, width + 2 * margin)
    pan, phase = rng.uniform(0.02, 0.06, 2), rng.uniform(0, 2 * np.pi, 2)
    for t in range(num_frames):
        shapes = [_moved(s, t, move, height, width) for s, move in zip(scene.shapes, moves)]
        top, left = np.rint(margin * (1 + 0.95 * np.sin(pan * t + phase))).astype(int)
        window = slice(top, top + height), slice(left, left + width)
        backdrop = Backdrop(world.texture[window], world.stuff[window])
        frame = compose(shapes, height, width)
        image = paint(np.random.RandomState([seed, height, width, 4, t]), frame, backdrop, steady=True)
        yield VideoFrame(image, *dense_labels(frame, backdrop.stuff))


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

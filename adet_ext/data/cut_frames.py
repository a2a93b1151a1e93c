"""Cut the frames before annotated ones out of videos, as the format of :mod:`~.frame_folders` has them.

Annotated frames have numbers, but which frame of a video has which number is often not known: an extract of a film
starts anywhere, and some count from 1. So one offset is found for each video, that for which small gray copies of the
annotated images and of the video's frames differ least.

A annotated frames of a video; V frames of it.
"""

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from ..errors import UserError
from ..utils.image_io import read_image, write_image

__all__ = ["Alignment", "Annotated", "align", "cut_video", "is_cut", "thumbnail"]

_SMALL = (36, 48)  # of the small copies, height and width
_LEAST_SHARE = 0.8  # of the annotated frames, which must be in the video
_NEARBY = 5  # frames within which a better match is looked for, for the report


class Annotated(NamedTuple):
    """An annotated frame: its number in its sequence, its image and label map, and the folder and name of its clip."""

    number: int
    image: str
    labels: str
    folder: str
    name: str


class Alignment(NamedTuple):
    """Which frame of a video is which.

    Attributes:
        offset: frame ``number + offset`` of the video, counted from 0, is the annotated frame ``number``.
        difference: mean difference of the small copies there, in gray values from 0 to 255.
        elsewhere: how many annotated frames are more like another frame within 5 of theirs.
        outside: how many annotated frames lie outside the video.
    """

    offset: int
    difference: float
    elsewhere: int
    outside: int


def thumbnail(image: np.ndarray) -> np.ndarray:
    """Return a small gray copy of a BGR uint8 (H, W, 3) image, uint8 (36, 48)."""
    import cv2

    return cv2.cvtColor(cv2.resize(image, _SMALL[::-1], interpolation=cv2.INTER_AREA), cv2.COLOR_BGR2GRAY)


def align(numbers: Sequence[int], images: np.ndarray, film: np.ndarray) -> Alignment:
    """Find the offset between the numbers of annotated frames and the frames of a video.

    Args:
        numbers: A numbers, ascending.
        images: thumbnails of the annotated images, uint8 (A, 36, 48).
        film: thumbnails of all frames of the video, uint8 (V, 36, 48).

    Raises:
        ValueError: four fifths of the annotated frames do not fit into the video, whatever the offset.
    """
    places, count = np.asarray(numbers), len(film)
    flat = film.reshape(count, -1).astype(np.float32)
    # The difference of annotated frame a at offset o is that of its image and frame numbers[a] + o.
    offsets = np.arange(-places[-1], count - places[0])
    total, inside = np.zeros(len(offsets)), np.zeros(len(offsets), np.int64)
    differences = []
    for number, image in zip(places, images):
        difference = np.abs(flat - image.reshape(-1).astype(np.float32)).mean(1)  # V
        first = -number - offsets[0]  # where in the offsets the video's first frame is
        total[first : first + count] += difference
        inside[first : first + count] += 1
        differences.append(difference)
    enough = inside >= max(1, _LEAST_SHARE * len(places))
    if not enough.any():
        raise ValueError(f"its {count} frames cannot hold frames {places[0]} to {places[-1]}")
    means = np.where(enough, total / np.maximum(inside, 1), np.inf)
    best = int(means.argmin())
    offset, elsewhere = int(offsets[best]), 0
    for number, difference in zip(places + offset, differences):
        if 0 <= number < count:
            low = max(number - _NEARBY, 0)
            elsewhere += int(low + difference[low : number + _NEARBY + 1].argmin() != number)
    return Alignment(offset, float(means[best]), elsewhere, int(len(places) - inside[best]))


def cut_video(
    film: Callable[[], Iterator[tuple[int, np.ndarray]]], annotated: Sequence[Annotated], frames: int
) -> Alignment | None:
    """Write a clip for every annotated frame: it, with its labels, and the ``frames`` - 1 frames before it.

    A clip goes to ``images/NAME/000000.jpg ...`` and ``labels/NAME/`` in its folder, at the size of the annotated
    image. Clips that are there are left as they are; each appears whole or not at all. A clip with a frame outside the
    video, or with a broken one, is not made.

    Args:
        film: gives the frames of the video from the start, BGR uint8, with their numbers from 0, in which those of
            broken frames are left out; it is called twice.
        annotated: of this video, in any order.

    Returns:
        the alignment, or None if all clips were there.

    Raises:
        UserError: the annotated frames do not fit the video, or a file cannot be read or written.
    """
    missing = [a for a in annotated if not is_cut(a, frames)]
    if not missing:
        return None
    everything = sorted(annotated)
    thumbnails = np.stack([thumbnail(read_image(a.image)) for a in everything])
    copies: list[np.ndarray] = []
    for number, frame in film():
        copies += [thumbnail(frame)] * (number + 1 - len(copies))  # a broken frame's place gets the next one's
    if not copies:
        raise UserError(f"{everything[0].image}: no frame could be read from its video")
    try:
        found = align([a.number for a in everything], thumbnails, np.stack(copies))
    except ValueError as error:
        raise UserError(f"{everything[0].image}: its video must be another one: {error}") from error
    wanted = {a.number + found.offset: a for a in missing}
    last: list[tuple[int, np.ndarray]] = []
    for number, frame in film():
        last = [*last[max(len(last) - frames + 1, 0) :], (number, frame)]
        if number in wanted and len(last) == frames and last[0][0] == number - frames + 1:
            _write(wanted[number], [frame for _, frame in last])
    return found


def is_cut(annotated: Annotated, frames: int) -> bool:
    """Whether all files of a clip are there."""
    names = [os.path.join("images", annotated.name, f"{t:06d}.jpg") for t in range(frames)]
    names.append(os.path.join("labels", annotated.name, f"{frames - 1:06d}.png"))
    return all(os.path.isfile(os.path.join(annotated.folder, name)) for name in names)


def _write(annotated: Annotated, frames: Sequence[np.ndarray]) -> None:
    import cv2

    height, width = read_image(annotated.image).shape[:2]
    images, labels = (os.path.join(annotated.folder, kind, annotated.name) for kind in ("images", "labels"))
    beside = os.path.join(annotated.folder, "images", f".{annotated.name}.part")  # hidden, so it is no sequence
    try:
        shutil.rmtree(beside, ignore_errors=True)
        shutil.rmtree(images, ignore_errors=True)
        os.makedirs(beside)
        os.makedirs(labels, exist_ok=True)
        for t, frame in enumerate(frames):
            small = cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA)
            write_image(os.path.join(beside, f"{t:06d}.jpg"), small)
        target = os.path.join(labels, f"{len(frames) - 1:06d}.png")
        shutil.copyfile(annotated.labels, f"{target}.part")
        os.replace(beside, images)
        os.replace(f"{target}.part", target)
    except OSError as error:
        raise UserError(f"{images}: cannot be written: {error}") from error

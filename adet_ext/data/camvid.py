"""CamVid in the form of SegNet's authors, and in frames cut from its videos.

``camvid_video_{train,val,test}`` (sequences) and ``camvid_sem_seg_{train,val,test}`` (single images) are read from
``camvid/`` in the folder of data sets: 480 x 360 images in ``train/``, label maps in ``trainannot/``, and their list
``train.txt``, a line ``image labels`` for each; so for the other splits. The images may be .png or .jpg.
``camvid_raw_video_{train,val,test}`` and ``camvid_raw_sem_seg_{train,val,test}`` are read from ``camvid_raw/``, which
``data cut-frames`` makes.
"""

import functools
import os
import re
from collections.abc import Sequence

import numpy as np

from ..errors import UserError
from .frame_folders import frame_folder_runs
from .semantic_sets import Run, read_lines, register_semantic, semantic_name

__all__ = ["CLASSES", "COLORS", "SPLITS", "VOID", "camvid_runs", "frame_of", "register_camvid"]

CLASSES = (
    "Sky", "Building", "Pole", "Road", "Pavement", "Tree", "SignSymbol", "Fence", "Car", "Pedestrian", "Bicyclist",
)  # fmt: skip
COLORS = (
    (128, 128, 128), (128, 0, 0), (192, 192, 128), (128, 64, 128), (60, 40, 222), (128, 128, 0),
    (192, 128, 128), (64, 64, 128), (64, 0, 128), (64, 64, 0), (0, 128, 192),
)  # fmt: skip
VOID = 11
SPLITS = ("train", "val", "test")
_STEM = re.compile(r"(?P<sequence>.+)_f?(?P<frame>\d+)")


def camvid_runs(root: str, split: str) -> list[Run]:
    """Return the runs of annotated frames, in the order of the list of a split, sorted by sequence and time.

    A sequence is cut where the step from a frame to the next is above one and a half times its usual (median) step.

    Raises:
        UserError: the list is missing, or a line is wrong.
    """
    path = os.path.join(root, f"{split}.txt")
    sequences: dict[str, list[tuple[int, str, str]]] = {}
    for number, line in enumerate(read_lines(path), start=1):
        words = line.split()
        if len(words) != 2:
            raise UserError(f"{path}, line {number}: it must be an image and its labels, two words; got {line!r:.80}")
        # The original list has paths of its authors' machine; their last two parts lead from the set's folder.
        image, labels = (os.path.join(root, *word.split("/")[-2:]) for word in words)
        sequence, frame = frame_of(image)
        sequences.setdefault(sequence, []).append((frame, image, labels))
    return [
        Run(sequence, [image for _, image, _ in part], [labels for _, _, labels in part])
        for sequence, frames in sorted(sequences.items())
        for part in _cut(sorted(frames))
    ]


def register_camvid(name: str, root: str, split: str) -> None:
    """Check the list of a split in the folder ``root``, and register its sequences.

    Raises:
        UserError: as :func:`camvid_runs`.
    """
    camvid_runs(root, split)  # what is wrong is said now
    read = functools.partial(camvid_runs, root, split)
    register_semantic(name, read, CLASSES, COLORS, VOID, images=False, root=os.path.join(root, f"{split}.txt"))


def frame_of(path: str) -> tuple[str, int]:
    """Return the sequence and the number of the frame that a file is named by: ``0001TP_006690.png``.

    Raises:
        UserError: the name is another.
    """
    match = _STEM.fullmatch(os.path.splitext(os.path.basename(path))[0])
    if not match:
        raise UserError(f"{path}: a CamVid frame must be named SEQUENCE_NUMBER, such as 0001TP_006690.png")
    return match["sequence"], int(match["frame"])


def _cut(frames: Sequence[tuple[int, str, str]]) -> list[Sequence[tuple[int, str, str]]]:
    steps = np.diff([frame for frame, _, _ in frames])
    if not len(steps):
        return [frames]
    ends = [0, *(np.flatnonzero(steps > 1.5 * np.median(steps)) + 1).tolist(), len(frames)]
    return [frames[start:end] for start, end in zip(ends, ends[1:])]


def _register_built_in() -> None:
    root = os.path.expanduser(os.getenv("DETECTRON2_DATASETS", "datasets"))
    for split in SPLITS:
        annotated, raw = os.path.join(root, "camvid"), os.path.join(root, "camvid_raw", split)
        collections = (
            ("camvid", functools.partial(camvid_runs, annotated, split), os.path.join(annotated, f"{split}.txt")),
            ("camvid_raw", functools.partial(frame_folder_runs, raw), raw),
        )
        for collection, read, place in collections:
            for images in (False, True):
                name = semantic_name(collection, split, images=images)
                register_semantic(name, read, CLASSES, COLORS, VOID, images=images, root=place)


_register_built_in()

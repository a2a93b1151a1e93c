"""CityScapes with the frames before the annotated ones: 19 classes, 2048 x 1024.

``cityscapes_video_{train,val,test}`` and, as single images, ``cityscapes_sem_seg_{train,val,test}`` are read from
``cityscapes/`` in the folder of data sets:

    leftImg8bit_sequence/train/CITY/CITY_000000_000018_leftImg8bit.png    30 frames around every annotated one
    leftImg8bit/train/CITY/CITY_000000_000019_leftImg8bit.png             used where the folder above is missing
    gtFine/train/CITY/CITY_000000_000019_gtFine_labelTrainIds.png         made by cityscapesScripts

Pairs of frames need not be cut beforehand: a clip ends at an annotated frame (see :mod:`~.clips`).
"""

import functools
import os
import re

from ..errors import UserError
from .semantic_sets import IGNORE, Run, register_semantic, semantic_name

__all__ = ["CLASSES", "COLORS", "cityscapes_runs"]

CLASSES = (
    "road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign", "vegetation", "terrain",
    "sky", "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle",
)  # fmt: skip
COLORS = (
    (128, 64, 128), (244, 35, 232), (70, 70, 70), (102, 102, 156), (190, 153, 153), (153, 153, 153), (250, 170, 30),
    (220, 220, 0), (107, 142, 35), (152, 251, 152), (70, 130, 180), (220, 20, 60), (255, 0, 0), (0, 0, 142),
    (0, 0, 70), (0, 60, 100), (0, 80, 100), (0, 0, 230), (119, 11, 32),
)  # fmt: skip
_SPLITS = ("train", "val", "test")
_FRAME = re.compile(r"(?P<drive>.+_\d+)_(?P<frame>\d+)_leftImg8bit\.png")
_LABELS = "_gtFine_labelTrainIds.png"
_BEFORE, _AFTER = 19, 10  # the annotated frame is the 20th of 30


def cityscapes_runs(root: str, split: str) -> list[Run]:
    """Return the runs of consecutive frames with an annotated one in them; of the frames alone, where they are single.

    Raises:
        UserError: a folder is missing or has no labels.
    """
    images = os.path.join(root, "leftImg8bit_sequence", split)
    if not os.path.isdir(images):
        images = os.path.join(root, "leftImg8bit", split)
    labels = os.path.join(root, "gtFine", split)
    for folder in (images, labels):
        if not os.path.isdir(folder):
            raise UserError(
                f"{folder}: there is no such folder; unpack CityScapes' leftImg8bit_sequence_trainvaltest.zip and "
                "gtFine_trainvaltest.zip into the folder cityscapes of the data sets"
            )
    runs = [run for city in sorted(os.listdir(labels)) for run in _city(images, labels, city)]
    if not runs:
        raise UserError(
            f"{labels}: there must be files CITY/*{_LABELS}; got none. Make them by cityscapesScripts: python -m "
            "cityscapesscripts.preparation.createTrainIdLabelImgs"
        )
    return runs


def _city(images: str, labels: str, city: str) -> list[Run]:
    place, label_place = os.path.join(images, city), os.path.join(labels, city)
    if not os.path.isdir(label_place):
        return []
    maps = {n[: -len(_LABELS)]: os.path.join(label_place, n) for n in os.listdir(label_place) if n.endswith(_LABELS)}
    if maps and not os.path.isdir(place):
        raise UserError(f"{place}: there is no such folder, but {label_place} has labels for its images; restore it")
    drives: dict[str, dict[int, str]] = {}
    for name in os.listdir(place) if maps else ():
        match = _FRAME.fullmatch(name)
        if match:
            drives.setdefault(match["drive"], {})[int(match["frame"])] = os.path.join(place, name)
    runs = []
    for stem in sorted(maps):
        drive, _, number = stem.rpartition("_")
        frames = drives.get(drive, {})
        if int(number) not in frames:
            raise UserError(f"{maps[stem]}: there is no frame {stem}_leftImg8bit.png in {place}; restore it")
        numbers = _around(frames, int(number))
        found = [maps[stem] if n == int(number) else None for n in numbers]
        runs.append(Run(f"{city}/{stem}", [frames[n] for n in numbers], found))
    return runs


def _around(frames: dict[int, str], annotated: int) -> range:
    """The numbers of the consecutive frames before and after ``annotated``."""
    first, last = annotated, annotated
    while first - 1 in frames and annotated - first < _BEFORE:
        first -= 1
    while last + 1 in frames and last - annotated < _AFTER:
        last += 1
    return range(first, last + 1)


def _register_built_in() -> None:
    root = os.path.join(os.path.expanduser(os.getenv("DETECTRON2_DATASETS", "datasets")), "cityscapes")
    for split in _SPLITS:
        for images in (False, True):
            name = semantic_name("cityscapes", split, images=images)
            read = functools.partial(cityscapes_runs, root, split)
            register_semantic(name, read, CLASSES, COLORS, IGNORE, images=images, root=root)


_register_built_in()

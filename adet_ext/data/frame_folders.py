"""A format of sequences that is made by hand: a folder of frames for each sequence.

::

    street/classes.json                        {"classes": ["road", "car"], "palette": [[128, 64, 128], [0, 0, 142]],
                                                "void_id": 255}
    street/train/images/monday/000017.jpg      frames, in the order of their numbers or names
    street/train/labels/monday/000017.png      label maps, one class number a pixel; not every frame needs one
    street/val/images/...

``palette`` (RGB) and ``void_id`` (255) may be left out. ``classes.json`` is in the folder of a split or above it. A
sequence has no gap in time: what is filmed apart goes into folders of its own.
"""

import functools
import os

from ..errors import UserError
from ..utils.image_io import IMAGE_SUFFIXES, sort_frames
from .json_file import read_json
from .semantic_sets import IGNORE, Run, distinct_colors, register_semantic

__all__ = ["frame_folder_runs", "read_classes", "register_frame_folders"]


def register_frame_folders(name: str, folder: str, *, images: bool = False) -> list[str]:
    """Check the folders of a split, such as ``street/train``, register them, and return the class names.

    Args:
        images: register the frames that have labels as single images, not the sequences.

    Raises:
        UserError: a folder or ``classes.json`` is missing or wrong.
    """
    classes, colors, void = read_classes(folder)
    read = functools.partial(frame_folder_runs, folder)
    register_semantic(name, read, classes, colors, void, images=images, root=folder)
    frame_folder_runs(folder)  # what is wrong is said now
    return classes


def read_classes(folder: str) -> tuple[list[str], list[tuple[int, int, int]], int]:
    """Return class names, their RGB colors, and the value of pixels without a class.

    Raises:
        UserError: there is no ``classes.json`` in ``folder`` or above it, or its content is wrong.
    """
    above = os.path.dirname(os.path.abspath(folder))
    paths = [os.path.join(place, "classes.json") for place in (folder, above)]
    path = next(filter(os.path.isfile, paths), None)
    if path is None:
        raise UserError(
            f'{paths[0]}: there is no such file, nor {paths[1]}; write {{"classes": ["road", "car"]}} into it'
        )
    content = read_json(path)
    content = content if isinstance(content, dict) else {}
    classes = content.get("classes")
    if not (isinstance(classes, list) and classes and all(isinstance(name, str) and name for name in classes)):
        raise UserError(f'{path}: "classes" must be a list of names; got {classes!r:.80}')
    void = content.get("void_id", IGNORE)
    if not isinstance(void, int) or not len(classes) <= void <= IGNORE:
        raise UserError(f'{path}: "void_id" must be a whole number from {len(classes)} to {IGNORE}; got {void!r:.80}')
    palette = content.get("palette")
    if palette is None:
        return classes, distinct_colors(len(classes)), void
    if not (isinstance(palette, list) and len(palette) == len(classes) and all(map(_is_color, palette))):
        raise UserError(f'{path}: "palette" must be {len(classes)} colors [red, green, blue] of 0 to 255')
    return classes, [tuple(color) for color in palette], void


def _is_color(value: object) -> bool:
    return isinstance(value, list) and len(value) == 3 and all(isinstance(v, int) and 0 <= v <= 255 for v in value)


def frame_folder_runs(folder: str) -> list[Run]:
    """Return a run for each sequence of a split.

    Raises:
        UserError: there are no sequences, one has no frames, two frames have one name, or labels have no frame.
    """
    images, labels = os.path.join(folder, "images"), os.path.join(folder, "labels")
    sequences = sorted(_names(images))
    sequences = [name for name in sequences if os.path.isdir(os.path.join(images, name))]
    if not sequences:
        raise UserError(f"{images}: there must be a folder of frames for each sequence in it; got none")
    return [_run(images, labels, sequence) for sequence in sequences]


def _run(images: str, labels: str, sequence: str) -> Run:
    place, label_place = os.path.join(images, sequence), os.path.join(labels, sequence)
    frames = sort_frames([name for name in _names(place) if name.lower().endswith(IMAGE_SUFFIXES)])
    if not frames:
        raise UserError(f"{place}: there is no image in this folder ({', '.join(IMAGE_SUFFIXES)})")
    stems = [os.path.splitext(name)[0] for name in frames]
    twice = next((a for a, b in zip(stems, stems[1:]) if a == b), None)
    if twice is not None:
        raise UserError(f"{place}: frame {twice} is there twice, with different suffixes; remove one")
    maps = {}
    if os.path.isdir(label_place):
        maps = {os.path.splitext(n)[0]: os.path.join(label_place, n) for n in _names(label_place) if n.endswith(".png")}
    lost = sorted(maps.keys() - set(stems))
    if lost:
        raise UserError(f"{maps[lost[0]]}: there is no frame {lost[0]} in {place}; labels and frames must share names")
    return Run(sequence, [os.path.join(place, name) for name in frames], [maps.get(stem) for stem in stems])


def _names(folder: str) -> list[str]:
    try:
        return [name for name in os.listdir(folder) if not name.startswith(".")]
    except OSError as error:
        raise UserError(f"{folder}: {error.strerror}; a split has images/SEQUENCE/ and labels/SEQUENCE/") from error

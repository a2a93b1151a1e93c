"""Make semantic label maps of stuff, which panoptic models learn from, out of COCO's panoptic PNGs.

A panoptic PNG stores a segment's id in the color of each pixel. The label map is 8-bit gray: 0 for any thing, 1 and up
for the stuff classes in the order of the annotation file's categories, 255 for no label. For COCO these are the files
that Detectron2's data sets ``coco_2017_{train,val}_panoptic_separated`` expect, pixel for pixel.
"""

import collections
import functools
import multiprocessing
import os
import re
import signal
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np
from PIL import Image

from ..errors import UserError, one_line
from ..utils.files import make_folder, written_beside
from ..utils.segment_ids import rgb2id
from .annotation_form import plain, short
from .entries import FLAG, ID, SEGMENTS, SIZE, TEXT, check_entries
from .json_file import read_json

__all__ = ["Prepared", "prepare_panoptic"]

UNLABELED = 255
_ARCHIVES = (
    "COCO's panoptic_annotations_trainval2017.zip holds the JSON files and two more archives, panoptic_train2017.zip "
    "and panoptic_val2017.zip, which must be unpacked too"
)


_RULES = {
    "annotations": {"image_id": ID, "file_name": TEXT, "segments_info": SEGMENTS},
    "categories": {"id": ID, "isthing": FLAG},
}


class Prepared(NamedTuple):
    """Result of a call: label maps written, those already finished, and those that could not be made, with reasons."""

    written: int
    finished: int
    problems: list[str]


class _Task(NamedTuple):
    source: str
    target: str
    size: tuple[int, int] | None  # width, height
    labels: dict[int, int]  # segment id -> label


def prepare_panoptic(
    panoptic_json: str,
    panoptic_root: str,
    sem_seg_root: str,
    *,
    workers: int = 1,
    tick: Callable[[], None] = lambda: None,
) -> Prepared:
    """Make the label map of every annotated image, except for those that are already finished.

    A map is written beside its place and renamed, so that a killed run can be started again and goes on. A file that
    cannot be read does not stop the others.

    Args:
        panoptic_json, panoptic_root: COCO's annotations and the folder of its PNGs.
        sem_seg_root: the folder of the maps, which have the names of the PNGs. It is made if it is missing.
        workers: number of processes.
        tick: called after each file.

    Raises:
        UserError: the annotations or some of their PNGs are missing, or the folder cannot be written to.
    """
    tasks = _tasks(panoptic_json, panoptic_root, sem_seg_root)
    make_folder(sem_seg_root)
    _remove_remains(sem_seg_root)
    counts: collections.Counter[str] = collections.Counter()
    problems = []
    for outcome in _outcomes(tasks, workers):
        counts[outcome] += 1
        if outcome not in ("written", "finished"):
            problems.append(outcome)
        tick()
    return Prepared(counts["written"], counts["finished"], sorted(problems))


def annotated_images(panoptic_json: str) -> int:
    """Return how many images a file annotates. ``tick`` is called that often."""
    return len(_annotations(panoptic_json)["annotations"])


@functools.lru_cache(maxsize=1)  # COCO's own takes seconds to read
def _annotations(path: str) -> dict:
    if not os.path.isfile(path):
        raise UserError(f"{path}: there is no such file; {_ARCHIVES}")
    content = read_json(path)
    lists = content if isinstance(content, dict) else {}
    missing = [k for k in _RULES if not isinstance(lists.get(k), list)]
    if not missing and not all("segments_info" in a for a in content["annotations"] if isinstance(a, dict)):
        missing = ["segments_info"]
    if missing:
        raise UserError(f"{path}: these are no panoptic annotations ({', '.join(missing)} missing)")
    for part, rules in _RULES.items():
        check_entries(path, content, part, rules)
    if not isinstance(content.setdefault("images", []), list):
        raise UserError(f"{path}: images must be a list; got {short(content['images'])}. Download the file again")
    sized = [i for i in content["images"] if isinstance(i, dict) and "width" in i and "height" in i]
    content["images"] = sized
    check_entries(path, content, "images", {"id": ID, "width": SIZE, "height": SIZE})
    return content


def _tasks(panoptic_json: str, panoptic_root: str, sem_seg_root: str) -> list[_Task]:
    content = _annotations(panoptic_json)
    stuff = [c["id"] for c in content["categories"] if not c["isthing"]]
    if len(stuff) >= UNLABELED:
        raise UserError(f"{panoptic_json}: {len(stuff)} stuff classes do not fit into 8 bits; 254 do")
    label_of = {c["id"]: 0 for c in content["categories"]} | {c: i for i, c in enumerate(stuff, start=1)}
    sizes = {i["id"]: (i["width"], i["height"]) for i in content["images"]}
    if not os.path.isdir(panoptic_root):
        raise UserError(f"{panoptic_root}: there is no such folder; {_ARCHIVES}")
    here = set(os.listdir(panoptic_root))
    absent = [a["file_name"] for a in content["annotations"] if a["file_name"] not in here]
    if absent:
        names = ", ".join(map(plain, absent[:3])) + (", ..." if len(absent) > 3 else "")
        raise UserError(
            f"{panoptic_root}: {len(absent)} of the {len(content['annotations'])} files that {panoptic_json} names are "
            f"not there ({names}); the archive was not unpacked to its end, or "
            f"belongs to another split. {_ARCHIVES}"
        )
    tasks = []
    for annotation in content["annotations"]:
        name = annotation["file_name"]
        unknown = sorted({s["category_id"] for s in annotation["segments_info"]} - label_of.keys())
        if unknown:
            raise UserError(
                f"{panoptic_json}: {plain(name)} has segments of categories {unknown}, which it does not list"
            )
        labels = {s["id"]: label_of[s["category_id"]] for s in annotation["segments_info"]}
        source, target = os.path.join(panoptic_root, name), os.path.join(sem_seg_root, name)
        tasks.append(_Task(source, target, sizes.get(annotation["image_id"]), labels))
    return tasks


def _outcomes(tasks: list[_Task], workers: int) -> Iterator[str]:
    if workers <= 1:
        yield from map(_prepare, tasks)
        return
    # Forked workers already have the libraries loaded.
    method = "fork" if "fork" in multiprocessing.get_all_start_methods() else None
    quiet = (signal.SIGINT, signal.SIG_IGN)  # the parent handles an interrupt
    with multiprocessing.get_context(method).Pool(workers, signal.signal, quiet) as pool:
        yield from pool.imap_unordered(_prepare, tasks, chunksize=max(1, min(32, len(tasks) // (4 * workers))))


def _prepare(task: _Task) -> str:
    """Return "written", "finished", or what is wrong with the source."""
    if _is_finished(task):
        return "finished"
    try:
        with Image.open(task.source) as image:
            if image.mode not in ("RGB", "RGBA"):
                return f"{task.source}: its colors are not ids (mode {image.mode})"
            ids = rgb2id(np.asarray(image))
    except Exception as error:  # Pillow raises many kinds for broken files
        return f"{task.source}: not an image, or only a part of one ({one_line(error)}); unpack or download it again"
    if task.size is not None and ids.shape != task.size[::-1]:
        width, height = task.size
        return f"{task.source}: {ids.shape[1]} x {ids.shape[0]} pixels, the annotations say {width} x {height}"
    listed = list(task.labels)
    place = np.zeros(max(int(ids.max()), *listed, 0) + 1, np.int32)  # by segment id; 0: not listed
    place[listed] = np.arange(1, len(listed) + 1)
    places = place[ids]
    lost = [listed[i] for i in np.flatnonzero(np.bincount(places.reshape(-1), minlength=len(listed) + 1)[1:] == 0)]
    if lost:
        return f"{task.source}: segments {lost[:3]} of the annotations are not in it; it belongs to other annotations"
    labels = np.array([UNLABELED, *task.labels.values()], np.uint8)[places]
    with written_beside(task.target) as beside:
        Image.fromarray(labels).save(beside)
    return "written"


def _is_finished(task: _Task) -> bool:
    """Whether the label map exists, is complete, and has the right size and exactly the right labels."""
    try:
        with Image.open(task.target) as image, Image.open(task.source) as source:
            if image.mode != "L" or image.size != source.size:
                return False
            present = set(np.flatnonzero(np.bincount(np.asarray(image).reshape(-1))).tolist())
    except Exception:  # missing or broken: it is made again, and problems of the source are reported then
        return False
    return present - {UNLABELED} == set(task.labels.values())


def _remove_remains(folder: str) -> None:
    """Remove unfinished files of processes that have ended."""
    for name in os.listdir(folder):
        match = re.fullmatch(r"\..+\.(\d+)\.part\.png", name)
        if match and not _is_alive(int(match[1])):
            os.remove(os.path.join(folder, name))


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's
        return True
    return True


def coco_splits(root: str, splits: Iterable[str]) -> Iterator[tuple[str, str, str]]:
    """Yield (annotations, folder of PNGs, folder of label maps) of COCO's splits, as "val2017", in ``root``/coco."""
    for split in splits:
        yield (
            os.path.join(root, "coco", "annotations", f"panoptic_{split}.json"),
            os.path.join(root, "coco", f"panoptic_{split}"),
            os.path.join(root, "coco", f"panoptic_stuff_{split}"),
        )

"""Cut clips, short rows of consecutive frames, from the runs of a data set of sequences.

T: frames of a clip.
"""

from collections.abc import Iterable

from ..d2.config import CfgNode
from ..d2.data import MetadataCatalog
from ..errors import UserError
from .semantic_sets import VIDEO

__all__ = ["holds_sequences", "test_clips", "training_clips"]


def holds_sequences(names: Iterable[str]) -> bool:
    """Whether the data sets ``names`` are sets of sequences.

    Raises:
        UserError: some are and others are not.
    """
    names = list(names)
    kinds = [MetadataCatalog.get(name).get("evaluator_type") == VIDEO for name in names]
    if len(set(kinds)) > 1:
        raise UserError(
            f"data set {names[kinds.index(True)]} has sequences of frames and {names[kinds.index(False)]} single "
            "images; use sets of one kind together"
        )
    return bool(kinds) and kinds[0]


def training_clips(runs: Iterable[dict], cfg: CfgNode) -> list[dict]:
    """Return a clip of ``INPUT.VIDEO.FRAMES`` frames for every frame with labels that has enough frames before it.

    Args:
        runs: dicts of :func:`~.semantic_sets.register_semantic`.

    Returns:
        Dicts of the same form, T frames each, and ``scored``: bool [T], true in the last.

    Raises:
        UserError: no run is long enough.
    """
    frames = cfg.INPUT.VIDEO.FRAMES
    clips = [clip for clip in _ends(runs, frames) if len(clip["file_names"]) == frames]
    if not clips:
        raise UserError(
            f"INPUT.VIDEO.FRAMES is {frames}, but no frame with labels of {', '.join(cfg.DATASETS.TRAIN)} has "
            f"{frames - 1} frames before it in its sequence; lower the key"
        )
    return clips


def test_clips(runs: Iterable[dict], cfg: CfgNode) -> list[dict]:
    """Return the clips to evaluate on, which score every frame with labels once.

    With ``INPUT.VIDEO.FRAMES_TEST`` 0 whole runs, with every frame scored. Else there is a clip for every frame with
    labels: it, and up to ``FRAMES_TEST`` - 1 frames before it. It alone is scored.
    """
    frames = cfg.INPUT.VIDEO.FRAMES_TEST
    if frames:
        return list(_ends(runs, frames))
    return [{**run, "scored": [True] * len(run["file_names"])} for run in runs]


test_clips.__test__ = False  # no test, although pytest would take it for one


def _ends(runs: Iterable[dict], frames: int) -> Iterable[dict]:
    for run in runs:
        for end, label in enumerate(run["sem_seg_file_names"], start=1):
            if label is not None:
                part = slice(max(end - frames, 0), end)
                files, labels = run["file_names"][part], run["sem_seg_file_names"][part]
                scored = [False] * (len(files) - 1) + [True]
                yield {**run, "file_names": files, "sem_seg_file_names": labels, "scored": scored}

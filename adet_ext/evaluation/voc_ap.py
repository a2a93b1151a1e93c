"""Average precision (AP) as PASCAL VOC defines it, over 11 points of recall (to 2009) or over all (from 2010).

Boxes are corners x0, y0, x1, y1 on continuous axes from 0. VOC's own are pixels counted from 1, both ends in the box,
and its devkit adds 1 to each difference; the pixels x0 + 1 to x1 so counted reach from x0 to x1 here, so that the plain
areas below are the devkit's.

Letters: D detections; G objects of the ground truth; C classes; T thresholds.
"""

from typing import NamedTuple

import numpy as np

__all__ = ["Detections", "Truth", "average_precision", "voc_average_precisions"]

# Detectron2 and the devkit's ports to Python compare recalls with these numbers, some of which lie a rounding error
# above k / 10; so does 0.3 in the devkit's own 0:0.1:1.
_ELEVEN_POINTS = np.arange(0.0, 1.1, 0.1)


class Truth(NamedTuple):
    """The objects of all images.

    Attributes:
        image: int64 [G], the image's index.
        label: int64 [G], the class from 0 to C - 1.
        box: float64 [G, 4].
        difficult: bool [G].
    """

    image: np.ndarray
    label: np.ndarray
    box: np.ndarray
    difficult: np.ndarray


class Detections(NamedTuple):
    """The detections of all images.

    Attributes:
        image: int64 [D].
        label: int64 [D], from 0 to C - 1.
        box: float64 [D, 4].
        score: float64 [D]; of equal scores the first in the arrays comes first.
    """

    image: np.ndarray
    label: np.ndarray
    box: np.ndarray
    score: np.ndarray


def average_precision(recall: np.ndarray, precision: np.ndarray, eleven_points: bool) -> float:
    """Return the AP of a curve: the mean, or the area, of the best precision at a recall or above.

    Args:
        recall: float64 [D], ascending.
        precision: float64 [D].
        eleven_points: the mean over recalls 0, 0.1 .. 1; else the area under the curve.
    """
    best = np.maximum.accumulate(precision[::-1])[::-1]
    if eleven_points:
        first = np.searchsorted(recall, _ELEVEN_POINTS)
        return float(np.append(best, 0.0)[first].sum() / len(_ELEVEN_POINTS))
    return float((np.diff(recall, prepend=0.0) * best).sum())


def voc_average_precisions(
    truth: Truth, found: Detections, num_classes: int, thresholds: np.ndarray, eleven_points: bool
) -> np.ndarray:
    """Return AP by threshold and class, float64 [T, C] in 0 to 1.

    Best scores first, a detection is compared with the object of its image and class that it overlaps most. It is right
    if the IoU is above the threshold and no earlier detection was right on that object, ignored if that object is
    difficult, else wrong. "Above" is the definition in the devkit's manual, and what Detectron2 does; the devkit's code
    also takes an IoU equal to the threshold.

    A class without objects, or with difficult ones alone, has NaN; one without detections 0.
    """
    by_score = np.argsort(-found.score, kind="stable")
    found = Detections(*(values[by_score] for values in found))
    overlap, match = _best_overlaps(truth, found)
    result = np.full((len(thresholds), num_classes), np.nan)
    counts = np.bincount(truth.label[~truth.difficult], minlength=num_classes)
    for label in np.flatnonzero(counts):
        mine = found.label == label
        for t, threshold in enumerate(thresholds):
            right, wrong = _outcomes(overlap[mine] > threshold, match[mine], truth.difficult)
            rights, wrongs = np.cumsum(right), np.cumsum(wrong)
            # A detection that is ignored comes before any other: 0 of 0.
            precision = rights / np.maximum(rights + wrongs, 1)
            result[t, label] = average_precision(rights / counts[label], precision, eleven_points)
    return result


def _outcomes(hit: np.ndarray, match: np.ndarray, difficult: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which detections are right and which wrong, bool [D] each; the others are ignored.

    Args:
        hit: bool [D], whether a detection overlaps the object ``match``, int64 [D], enough; best score first.
    """
    right, wrong = np.zeros(len(hit), bool), ~hit
    hits = np.flatnonzero(hit)
    counted = hits[~difficult[match[hits]]]
    first = np.unique(match[counted], return_index=True)[1]
    wrong[counted] = True
    right[counted[first]], wrong[counted[first]] = True, False
    return right, wrong


def _best_overlaps(truth: Truth, found: Detections) -> tuple[np.ndarray, np.ndarray]:
    """Return the largest IoU of each detection with an object of its image and class, and which object that is.

    Returns:
        float64 [D], 0 where there is no such object, and int64 [D], of equal ones the first; 0 where there is none.
    """
    overlap, match = np.zeros(len(found.score)), np.zeros(len(found.score), np.int64)
    classes = 1 + max(truth.label.max(initial=0), found.label.max(initial=0))
    keys = truth.image * classes + truth.label
    order = np.argsort(keys, kind="stable")
    wanted = found.image * classes + found.label
    start = np.searchsorted(keys[order], wanted)
    count = np.searchsorted(keys[order], wanted, side="right") - start  # objects to compare each detection with
    some = np.flatnonzero(count)
    if not len(some):
        return overlap, match
    # All pairs of a detection and an object, those of a detection beside one another.
    first = np.cumsum(count[some]) - count[some]
    pair_of = np.repeat(some, count[some])
    place = np.arange(len(pair_of)) - np.repeat(first, count[some]) + start[pair_of]
    iou = _iou(found.box[pair_of], truth.box[order[place]])
    overlap[some] = np.maximum.reduceat(iou, first)
    is_best = iou == overlap[pair_of]
    match[some] = order[np.minimum.reduceat(np.where(is_best, place, len(order) - 1), first)]
    return overlap, match


def _iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union of paired boxes [P, 4]; 0 where a detection has no number for a coordinate."""
    sides = np.maximum(np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2]), 0.0)
    shared = sides[:, 0] * sides[:, 1]
    with np.errstate(divide="ignore", invalid="ignore"):
        iou = shared / (np.prod(a[:, 2:] - a[:, :2], axis=1) + np.prod(b[:, 2:] - b[:, :2], axis=1) - shared)
    return np.nan_to_num(iou, nan=0.0, posinf=0.0, neginf=0.0)

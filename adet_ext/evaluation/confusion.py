"""Scores of semantic segmentation from a confusion matrix.

C classes. Rows of a matrix are true classes, columns predicted ones; its entries count pixels.
"""

import numpy as np

__all__ = ["count_pairs", "semantic_scores"]


def count_pairs(true: np.ndarray, predicted: np.ndarray, num_classes: int, ignore: int) -> np.ndarray:
    """Return the confusion matrix of some pixels, int64 (C, C).

    Args:
        true: int, any shape: 0 to C - 1, or ``ignore``, whose pixels do not count.
        predicted: int, the same shape: 0 to C - 1.
    """
    counts = true != ignore
    pairs = num_classes * true[counts].astype(np.int64) + predicted[counts]
    return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


def semantic_scores(confusion: np.ndarray) -> dict[str, float | np.ndarray]:
    """Return the scores of a confusion matrix, from 0 to 1; NaN where nothing was counted.

    Returns:
        ``IoU`` and ``Acc``, float64 (C,): intersection over union of each class, and the share of its pixels that are
        found; NaN for classes without true pixels. ``mIoU`` and ``mAcc``: their means over the other classes.
        ``fwIoU``: the mean of IoU weighted by the classes' pixels. ``gAcc``: the share of all pixels that are right.
    """
    hits = confusion.diagonal().astype(np.float64)
    true, predicted = (confusion.sum(axis).astype(np.float64) for axis in (1, 0))
    present = true > 0
    iou = np.divide(hits, true + predicted - hits, out=np.full(len(hits), np.nan), where=present)
    accuracy = np.divide(hits, true, out=np.full(len(hits), np.nan), where=present)
    if not present.any():
        nan = float("nan")
        return {"mIoU": nan, "fwIoU": nan, "mAcc": nan, "gAcc": nan, "IoU": iou, "Acc": accuracy}
    return {
        "mIoU": float(iou[present].mean()),
        "fwIoU": float((iou[present] * true[present]).sum() / true.sum()),
        "mAcc": float(accuracy[present].mean()),
        "gAcc": float(hits.sum() / true.sum()),
        "IoU": iou,
        "Acc": accuracy,
    }

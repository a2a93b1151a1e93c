"""Panoptic quality, with crowd and void regions as COCO's official evaluation has them.

A panoptic map is (H, W) of segment ids, 0 being void. A predicted and a true segment of one category match
when their IoU, without the void pixels under the prediction, is above 0.5; at most one pair can.
"""

import numpy as np

__all__ = ["id2rgb", "rgb2id", "PQStat", "compare_segments"]

_VOID = 0


def rgb2id(colour: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 colours to (H, W) uint32 ids: R + 256 G + 65536 B."""
    colour = colour.astype(np.uint32)
    return colour[..., 0] + 256 * colour[..., 1] + 65536 * colour[..., 2]


def id2rgb(ids: np.ndarray) -> np.ndarray:
    """(H, W) ids below 2**24 to (H, W, 3) uint8 colours."""
    ids = ids.astype(np.uint32)
    return np.stack([ids & 255, (ids >> 8) & 255, (ids >> 16) & 255], axis=-1).astype(np.uint8)


class PQStat:
    """Per category: the sum of matched IoUs, and the counts of matched, superfluous and missed segments."""

    def __init__(self, category_ids: "list[int]"):
        self._index = {category: i for i, category in enumerate(category_ids)}
        self.iou, self.tp, self.fp, self.fn = np.zeros((4, len(self._index)))

    def add(self, category_id: int, *, iou: float = 0.0, tp: int = 0, fp: int = 0, fn: int = 0) -> None:
        i = self._index[category_id]
        self.iou[i] += iou
        self.tp[i] += tp
        self.fp[i] += fp
        self.fn[i] += fn

    def per_category(self) -> dict[int, tuple[float, float, float]]:
        """Category id -> (PQ, SQ, RQ) in [0, 1], for the categories with any segment."""
        seen = {c: i for c, i in self._index.items() if self.tp[i] + self.fp[i] + self.fn[i] > 0}
        result = {}
        for category, i in seen.items():
            segments = self.tp[i] + 0.5 * self.fp[i] + 0.5 * self.fn[i]
            sq = self.iou[i] / self.tp[i] if self.tp[i] else 0.0
            result[category] = (float(self.iou[i] / segments), float(sq), float(self.tp[i] / segments))
        return result

    def average(self, category_ids: "set[int]") -> dict[str, float]:
        """Means of PQ, SQ, RQ over those of ``category_ids`` with any segment, "n" of them; NaN for none."""
        values = [v for c, v in self.per_category().items() if c in category_ids]
        if not values:
            return {"pq": float("nan"), "sq": float("nan"), "rq": float("nan"), "n": 0}
        return {
            **{k: sum(v) / len(values) for k, v in zip(("pq", "sq", "rq"), zip(*values))},
            "n": len(values),
        }


def compare_segments(
    true: np.ndarray, true_segments: list[dict], pred: np.ndarray, pred_segments: list[dict], stat: PQStat
) -> None:
    """Add one image to ``stat``.

    Args:
        true, pred: (H, W) panoptic maps of the same size.
        true_segments: with "id", "category_id", "area" and "iscrowd"; pred_segments: "id", "category_id".

    Raises:
        ValueError: the predicted map and its list of segments disagree.
    """
    truth = {s["id"]: s for s in true_segments}
    predicted = {s["id"]: s for s in pred_segments}
    ids, counts = np.unique(pred, return_counts=True)
    area = dict(zip(ids.tolist(), counts.tolist()))
    unlisted, absent = area.keys() - predicted.keys() - {_VOID}, predicted.keys() - area.keys()
    if unlisted or absent:
        raise ValueError(
            f"segments in the map that are not listed: {sorted(unlisted)}; "
            f"listed but not in the map: {sorted(absent)}"
        )
    pairs, counts = np.unique(true.astype(np.uint64) << 24 | pred.astype(np.uint64), return_counts=True)
    overlap = {(pair >> 24, pair & 0xFFFFFF): n for pair, n in zip(pairs.tolist(), counts.tolist())}

    true_matched, pred_matched = set(), set()
    for (t, p), n in overlap.items():
        if t not in truth or p not in predicted or truth[t].get("iscrowd", 0) == 1:
            continue
        if truth[t]["category_id"] != predicted[p]["category_id"]:
            continue
        iou = n / (area[p] + truth[t]["area"] - n - overlap.get((_VOID, p), 0))
        if iou > 0.5:
            stat.add(truth[t]["category_id"], iou=iou, tp=1)
            true_matched.add(t)
            pred_matched.add(p)

    crowds = {}  # of several crowd regions of a category the last counts, as in the official evaluation
    for t, segment in truth.items():
        if t not in true_matched:
            if segment.get("iscrowd", 0) == 1:
                crowds[segment["category_id"]] = t
            else:
                stat.add(segment["category_id"], fn=1)
    for p, segment in predicted.items():
        if p not in pred_matched:
            ignored = overlap.get((_VOID, p), 0) + overlap.get((crowds.get(segment["category_id"], -1), p), 0)
            if ignored / area[p] <= 0.5:
                stat.add(segment["category_id"], fp=1)

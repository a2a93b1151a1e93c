"""Panoptic quality, with crowd and void regions as COCO's official evaluation has them.

A panoptic map is (H, W) of segment ids, 0 being void. A predicted and a true segment of one category match
when their IoU, without the void pixels under the prediction, is above 0.5; at most one pair can.
"""

import numpy as np

_VOID = 0


class PQStat:
    """Per category: the sum of matched IoUs, and the counts of matched, superfluous and missed segments.

    Sums are taken one by one in a fixed order, that of the official evaluation, so that they are equal to its sums to
    the last digit. (The built-in ``sum`` compensates rounding in newer Pythons.)
    """

    def __init__(self, category_ids: "list[int]"):
        self._index = {category: i for i, category in enumerate(category_ids)}
        self.iou, self.tp, self.fp, self.fn = np.zeros((4, len(self._index)))

    def __iadd__(self, other: "PQStat") -> "PQStat":
        """Add the sums of other images, of the same categories."""
        for mine, theirs in zip((self.iou, self.tp, self.fp, self.fn), (other.iou, other.tp, other.fp, other.fn)):
            mine += theirs
        return self

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
        totals = [0.0, 0.0, 0.0]
        for value in values:
            totals = [total + x for total, x in zip(totals, value)]
        return {**{k: t / len(values) for k, t in zip(("pq", "sq", "rq"), totals)}, "n": len(values)}


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
    truth = [s for _, s in sorted({s["id"]: s for s in true_segments}.items())]  # T segments
    predicted = [s for _, s in sorted({s["id"]: s for s in pred_segments}.items())]  # P segments
    width = len(predicted) + 2
    rows, columns = _places(true, [s["id"] for s in truth]), _places(pred, [s["id"] for s in predicted])
    table = np.bincount(rows * width + columns, minlength=(len(truth) + 2) * width).reshape(-1, width)
    void = table[1, 2:]  # P, the pixels of each predicted segment that are void in truth
    overlap, area = table[2:, 2:], table[:, 2:].sum(axis=0)  # (T, P), (P,)
    absent = [s["id"] for s, n in zip(predicted, area) if not n]
    if table[:, 0].any() or absent:
        known = [_VOID, *(s["id"] for s in predicted)]
        raise ValueError(
            f"segments in the map that are not listed: {sorted(set(np.unique(pred).tolist()) - set(known))}; "
            f"listed but not in the map: {absent}"
        )

    crowd = np.array([s.get("iscrowd", 0) == 1 for s in truth], bool)
    true_category = np.array([s["category_id"] for s in truth], np.int64)
    pred_category = np.array([s["category_id"] for s in predicted], np.int64)
    true_area = np.array([s["area"] for s in truth], np.int64)
    with np.errstate(divide="ignore", invalid="ignore"):  # of pairs without any pixel
        iou = overlap / (area + true_area[:, None] - overlap - void)
    match = (iou > 0.5) & (true_category[:, None] == pred_category) & ~crowd[:, None]
    for t, p in zip(*np.nonzero(match)):
        stat.add(truth[t]["category_id"], iou=iou[t, p], tp=1)
    for t in np.flatnonzero(~match.any(axis=1) & ~crowd):
        stat.add(truth[t]["category_id"], fn=1)

    # Of several crowd regions of a category the last in the list counts, as in the official evaluation.
    row_of = {s["id"]: t for t, s in enumerate(truth)}
    crowds = {s["category_id"]: row_of[s["id"]] for s in true_segments if s.get("iscrowd", 0) == 1}
    for p in np.flatnonzero(~match.any(axis=0)):
        row = crowds.get(predicted[p]["category_id"])
        ignored = void[p] + (overlap[row, p] if row is not None else 0)
        if ignored / area[p] <= 0.5:
            stat.add(predicted[p]["category_id"], fp=1)


def _places(ids: np.ndarray, listed: list[int]) -> np.ndarray:
    """The flattened map with 1 for void, 2 for the first of ``listed`` and so on, and 0 for what is not listed."""
    # A table by id: most of its 64 MB are zeros that are never touched, and a look-up a pixel is far less than a sort.
    place = np.zeros(max(int(ids.max(initial=0)), *listed, 0) + 1, np.int32)
    place[_VOID] = 1
    place[listed] = np.arange(2, len(listed) + 2)
    return place[ids.reshape(-1)]

"""Check the geometry of many annotations at once: areas and crossings of polygons, run-length codes.

Letters: Q polygons, n corners of one. Coordinates are in pixels.
"""

import itertools
from collections.abc import Sequence

import numpy as np

__all__ = ["crossing_polygons", "polygon_areas", "rle_area"]

# Checked at once, to bound the memory.
_EDGES_AT_ONCE = 200_000
_PAIRS_AT_ONCE = 500_000


def polygon_areas(polygons: Sequence[Sequence[float]]) -> np.ndarray:
    """Return the area of each flat (x, y, x, y, ...) polygon, float64 [Q], or NaN if a coordinate is not finite.

    In polygons that cross themselves, areas of opposite orientation cancel out. Every polygon has at least one corner.

    Raises:
        TypeError, ValueError: something in a polygon is not a number.
    """
    if not len(polygons):
        return np.zeros(0)
    counts = np.array([len(p) // 2 for p in polygons])
    flat = np.fromiter(itertools.chain.from_iterable(polygons), np.float64, count=2 * int(counts.sum()))
    x, y = flat[0::2], flat[1::2]
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    follower = _followers(counts)
    # Relative to the first corner, because products of large coordinates would lose digits.
    x, y = x - np.repeat(x[starts], counts), y - np.repeat(y[starts], counts)
    with np.errstate(invalid="ignore"):
        return np.abs(np.add.reduceat(x * y[follower] - x[follower] * y, starts)) / 2


def crossing_polygons(polygons: Sequence[Sequence[float]], max_pairs: int) -> tuple[list[int], int]:
    """Find the polygons that have two edges which cross in their interiors.

    Only edges that overlap in x are compared, which takes far less than n squared steps for an outline.

    Args:
        polygons: flat (x, y, x, y, ...), finite.
        max_pairs: stop after about this many pairs of edges.

    Returns:
        The ascending positions of the crossing polygons, and how many polygons were checked, from the first on.
    """
    crossing: list[int] = []
    start = pairs = 0
    while start < len(polygons) and pairs < max_pairs:
        end, edges = start, 0
        while end < len(polygons) and (edges == 0 or edges + len(polygons[end]) // 2 <= _EDGES_AT_ONCE):
            edges += len(polygons[end]) // 2
            end += 1
        found, looked_at, compared = _crossing(polygons[start:end], max_pairs - pairs, max_pairs)
        crossing += (found + start).tolist()
        pairs += compared
        start += looked_at
    return crossing, start


def _crossing(polygons: Sequence[Sequence[float]], max_pairs: int, most_of_one: int) -> tuple[np.ndarray, int, int]:
    """Do the same for some polygons at once, at least for the first. Also return the number of pairs compared."""
    counts = np.array([len(p) // 2 for p in polygons])
    first = np.fromiter(itertools.chain.from_iterable(polygons), np.float64, count=2 * int(counts.sum())).reshape(-1, 2)
    second = first[_followers(counts)]
    owner = np.repeat(np.arange(len(polygons)), counts)
    # Move the polygons side by side, so that only edges of the same one overlap in x.
    low, high = np.minimum(first[:, 0], second[:, 0]), np.maximum(first[:, 0], second[:, 0])
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    left, right = np.minimum.reduceat(low, starts), np.maximum.reduceat(high, starts)
    place = np.concatenate([[0], np.cumsum(right - left + 1)[:-1]]) - left
    low, high = low + place[owner], high + place[owner]
    order = np.argsort(low, kind="stable")
    first, second, owner = first[order], second[order], owner[order]
    bottom, top = np.minimum(first[:, 1], second[:, 1]), np.maximum(first[:, 1], second[:, 1])
    partners = np.searchsorted(low[order], high[order], side="right") - np.arange(1, len(order) + 1)
    partners = np.maximum(partners, 0)
    by_polygon = np.cumsum(np.bincount(owner, partners, len(polygons)))
    looked_at = max(1, int(np.searchsorted(by_polygon, max_pairs, side="right")))
    partners[owner >= looked_at] = 0
    if by_polygon[0] > most_of_one:  # it has tens of thousands of points, which would take minutes
        partners[owner == 0] = 0
    crossing = np.zeros(len(polygons), bool)
    totals = np.cumsum(partners)
    start = 0
    while start < len(order):
        done = totals[start - 1] if start else 0
        end = max(start + 1, int(np.searchsorted(totals, done + _PAIRS_AT_ONCE, side="right")))
        times = partners[start:end]
        i = np.repeat(np.arange(start, end), times)
        j = i + 1 + np.arange(len(i)) - np.repeat(np.cumsum(times) - times, times)
        near = (bottom[i] <= top[j]) & (bottom[j] <= top[i])
        i, j = i[near], j[near]
        # Edges i and j cross if the ends of each are on different sides of the other. Neighbors share a corner: side 0.
        apart = _sides(first[i], second[i], first[j], second[j]) & _sides(first[j], second[j], first[i], second[i])
        crossing[owner[i[apart]]] = True
        start = end
    return np.flatnonzero(crossing), looked_at, int(totals[-1])


def _sides(a: np.ndarray, b: np.ndarray, p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Return whether p and q are on different sides of the line through a and b; all [pairs, 2]."""
    direction, to_p, to_q = b - a, p - a, q - a
    side_p = direction[:, 0] * to_p[:, 1] - direction[:, 1] * to_p[:, 0]
    side_q = direction[:, 0] * to_q[:, 1] - direction[:, 1] * to_q[:, 0]
    return np.sign(side_p) * np.sign(side_q) < 0


def _followers(counts: np.ndarray) -> np.ndarray:
    """Return, for each corner of consecutive polygons, the index of the next corner of the same polygon."""
    follower = np.arange(1, counts.sum() + 1)
    ends = np.cumsum(counts)
    follower[ends - 1] = ends - counts
    return follower


def rle_area(counts: str | bytes | Sequence[int], height: int, width: int) -> int:
    """Return how many pixels a COCO run-length code, compressed or not, sets.

    Raises:
        ValueError: it does not code exactly height x width pixels; decoding it would read past the image.
    """
    runs = _runs(counts).tolist() if isinstance(counts, (str, bytes)) else counts
    if not all(type(v) is int for v in runs):
        raise ValueError("its counts are not whole numbers")
    total = sum(runs)  # Python's, which does not overflow
    if any(v < 0 for v in runs) or total != height * width:
        raise ValueError(
            f"its runs add up to {total if abs(total) < 2**63 else 'too many'} pixels, not {height * width}"
        )
    return sum(runs[1::2])


def _runs(counts: str | bytes) -> np.ndarray:
    """Decode COCO's text form: groups of 5 bits, low ones first; bit 5 means that another group follows.

    From the fourth number on, a number is the difference to the one two places before.
    """
    code = np.frombuffer(counts.encode("utf-8", "surrogatepass") if isinstance(counts, str) else counts, np.uint8)
    code = code.astype(np.int64) - 48
    if not len(code) or (code < 0).any() or (code > 63).any() or code[-1] & 32:
        raise ValueError("its counts are not COCO's compressed code")
    ends = np.flatnonzero(code & 32 == 0)
    starts = np.concatenate([[0], ends[:-1] + 1])
    shift = 5 * (np.arange(len(code)) - np.repeat(starts, ends - starts + 1))
    if shift.max() > 30:
        raise ValueError("its counts are not COCO's compressed code")
    values = np.add.reduceat((code & 31) << shift, starts)
    negative = code[ends] & 16 != 0
    values -= negative.astype(np.int64) << (shift[ends] + 5)
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    return values

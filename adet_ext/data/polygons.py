"""Polygons of annotations and the image that they are drawn in.

A polygon is a flat list (x, y, x, y, ...) in pixels; H, W are the image's height and width.
"""

import numpy as np
import pycocotools.mask as mask_util

__all__ = ["clip_far", "reaches_far", "sets_a_pixel"]

# Drawing takes memory for every pixel of an outline, so outlines end this many image sizes beyond the border.
_MARGIN = 1.0


def _limits(height: int, width: int) -> tuple[float, float, float, float]:
    """Return the lowest x and y and the highest x and y that are drawn unchanged."""
    return -_MARGIN * width, -_MARGIN * height, (1 + _MARGIN) * width, (1 + _MARGIN) * height


def reaches_far(polygon: np.ndarray, height: int, width: int) -> bool:
    """Whether a coordinate is more than an image size beyond the border."""
    x0, y0, x1, y1 = _limits(height, width)
    x, y = polygon[0::2], polygon[1::2]
    return bool(x.min() < x0 or y.min() < y0 or x.max() > x1 or y.max() > y1)


def clip_far(polygon: np.ndarray, height: int, width: int) -> np.ndarray:
    """Cut off what is more than an image size beyond the border (Sutherland-Hodgman). Pixels in the image stay.

    Args:
        polygon: finite float64 (x, y, x, y, ...).

    Returns:
        float64 (x, y, x, y, ...); empty if nothing is left.
    """
    points = polygon.reshape(-1, 2)
    x0, y0, x1, y1 = _limits(height, width)
    for axis, bound, sign in ((0, x0, 1), (0, x1, -1), (1, y0, 1), (1, y1, -1)):
        if not len(points):
            break
        inside = sign * (points[:, axis] - bound)
        followers, inside_followers = np.roll(points, -1, axis=0), np.roll(inside, -1)
        kept = []
        for a, b, s, t in zip(points, followers, inside, inside_followers):
            if s >= 0:
                kept.append(a)
            if (s >= 0) != (t >= 0):
                # Halved, because the difference of two numbers near the largest float overflows.
                share = (s / 2) / (s / 2 - t / 2)
                point = a + share * (b / 2 - a / 2) * 2
                point[axis] = bound
                kept.append(point)
        points = np.array(kept).reshape(-1, 2)
    return points.reshape(-1)


def sets_a_pixel(polygons: list[list[float]], height: int, width: int) -> bool:
    """Whether the polygons, drawn as COCO does, set a pixel of the image."""
    codes = mask_util.frPyObjects([list(map(float, p)) for p in polygons], height, width)
    return bool(np.sum(mask_util.area(codes)) > 0)

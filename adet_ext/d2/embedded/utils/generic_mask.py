"""One mask in whatever form data sets and models have it."""

from typing import Any

import cv2
import numpy as np
import pycocotools.mask as mask_util
import torch


class GenericMask:
    """One mask, as pixels and as polygons, from either.

    Args:
        mask_or_polygons: a binary array (height, width), a list of polygons [x0, y0, x1, y1, ...], or a
            COCO run-length encoding.
    """

    def __init__(self, mask_or_polygons: Any, height: int, width: int):
        self.height, self.width = height, width
        self._mask = self._polygons = None
        given = mask_or_polygons
        if isinstance(given, dict):
            if isinstance(given["counts"], list):
                given = mask_util.frPyObjects(given, *given["size"])
            given = mask_util.decode(given)
        if isinstance(given, torch.Tensor):
            given = given.cpu().numpy()
        if isinstance(given, list):
            self._polygons = [np.asarray(polygon, dtype=float).reshape(-1) for polygon in given]
        elif isinstance(given, np.ndarray) and given.shape == (height, width):
            self._mask = given.astype(np.uint8)
        else:
            what = getattr(given, "shape", type(given).__name__)
            raise ValueError(f"not a mask for an image of {height} x {width}: {what}")

    @property
    def mask(self) -> np.ndarray:
        """uint8 (height, width) of 0 and 1."""
        if self._mask is None:
            polygons = [polygon for polygon in self._polygons if len(polygon) >= 6]
            if polygons:
                merged = mask_util.merge(mask_util.frPyObjects(polygons, self.height, self.width))
                self._mask = mask_util.decode(merged)
            else:
                self._mask = np.zeros((self.height, self.width), dtype=np.uint8)
        return self._mask

    @property
    def polygons(self) -> list[np.ndarray]:
        """Contours [x0, y0, x1, y1, ...] of the parts and of the holes."""
        if self._polygons is None:
            self._polygons = self._trace()[0]
        return self._polygons

    @property
    def has_holes(self) -> bool:
        """Whether a part has a hole; polygons have none."""
        return self._mask is not None and self._trace()[1]

    def _trace(self) -> tuple[list[np.ndarray], bool]:
        contours, hierarchy = cv2.findContours(np.ascontiguousarray(self.mask), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
        polygons = [contour.reshape(-1) + 0.5 for contour in contours if contour.size >= 6]
        return polygons, hierarchy is not None and bool((hierarchy[0, :, 3] >= 0).any())

    def innermost(self) -> tuple[int, int]:
        """The pixel (x, y) farthest from the border: where a name goes, as the centre may lie outside."""
        depth = cv2.distanceTransform(np.pad(self.mask, 1), cv2.DIST_L2, 3)[1:-1, 1:-1]
        y, x = np.unravel_index(depth.argmax(), depth.shape)
        return int(x), int(y)

    def area(self) -> int:
        """Number of pixels."""
        return int(self.mask.sum())

    def bbox(self) -> np.ndarray:
        """Tightest box (x0, y0, x1, y1)."""
        x, y, w, h = cv2.boundingRect(np.ascontiguousarray(self.mask))
        return np.array([x, y, x + w, y + h], dtype=float)

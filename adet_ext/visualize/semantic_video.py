"""Draw class maps on the frames of a video: colors over the picture, and a legend below.

H, W height and width of a frame; C classes. Frames are BGR uint8 (H, W, 3), as videos are read and written.
"""

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageDraw

from ..data.catalog import class_names_of, name_of
from .drawing import INK, PAPER, readable_on
from .fonts import font
from .predictions import stuff_color

__all__ = ["SemanticPainter", "beside"]

_STRENGTH = 0.55  # of the colors over the picture


class SemanticPainter:
    """Paints the classes of a data set, always in the same colors.

    Args:
        metadata: of a data set, for ``stuff_classes``, else ``thing_classes``, and ``stuff_colors``.
        num_classes: C.
    """

    def __init__(self, metadata: Any, num_classes: int):
        self.names = class_names_of(metadata, "stuff_classes") or class_names_of(metadata)
        self._rgb = [stuff_color(metadata, c) for c in range(num_classes)]
        self._table = np.zeros((256, 3), np.uint8)  # BGR; what is no class is black
        self._table[:num_classes] = [color[::-1] for color in self._rgb]
        self._legends: dict[int, np.ndarray] = {}

    def overlay(self, frame: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Return the frame with the color of each pixel's class over it.

        Args:
            labels: uint8 (H, W), 0 to C - 1; others, such as 255, are no class.
        """
        return cv2.addWeighted(frame, 1 - _STRENGTH, self._table[labels], _STRENGTH, 0)

    def with_legend(self, picture: np.ndarray) -> np.ndarray:
        """Return ``picture`` with the names of the classes below it, if they are known."""
        if not self.names:
            return picture
        width = picture.shape[1]
        if width not in self._legends:
            self._legends = {width: self._legend(width)}  # of one width at a time
        return np.concatenate([picture, self._legends[width]])

    def _legend(self, width: int) -> np.ndarray:
        size = int(np.clip(width / 45, 10, 18))
        names = [name_of(self.names, c) for c in range(len(self._rgb))]
        pen = ImageDraw.Draw(Image.new("RGB", (1, 1)))
        pad, line = size // 2, int(size * 1.7)
        places, x, row = [], pad, 0
        for name in names:
            tag = int(pen.textlength(name, font=font(size, name))) + 2 * pad
            if x + tag > width - pad and x > pad:
                x, row = pad, row + 1
            places.append((x, pad // 2 + row * line, tag))
            x += tag + pad
        strip = Image.new("RGB", (width, (row + 1) * line + pad), PAPER)
        pen = ImageDraw.Draw(strip)
        for name, color, (left, top, tag) in zip(names, self._rgb, places):
            pen.rounded_rectangle((left, top, left + tag - 1, top + int(size * 1.5)), radius=pad // 2, fill=color)
            middle = left + pad, top + size * 0.78
            pen.text(middle, name, font=font(size, name), fill=readable_on(color), anchor="lm")
        return np.array(strip)[:, :, ::-1]


def beside(pictures: Sequence[np.ndarray], captions: Sequence[str]) -> np.ndarray:
    """Return BGR pictures of one height in a row, each with its caption above it."""
    size = int(np.clip(pictures[0].shape[1] / 30, 10, 20))
    columns = []
    for picture, caption in zip(pictures, captions):
        head = Image.new("RGB", (picture.shape[1], int(size * 1.8)), PAPER)
        ImageDraw.Draw(head).text((size // 2, size * 0.9), caption, INK, font(size, caption), "lm")
        columns.append(np.concatenate([np.array(head)[:, :, ::-1], picture]))
    return np.concatenate(columns, axis=1)

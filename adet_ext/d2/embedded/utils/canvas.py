"""A picture to draw on: translucent masks with contours, boxes, and labels.

H, W: the image's height and width; the canvas is (H * scale, W * scale). Positions are in image pixels.
"""

import colorsys
import functools
import os
from collections.abc import Sequence

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

RGB = tuple[int, int, int]

_GOLDEN_RATIO = 0.618034


def palette(index: int) -> RGB:
    """The ``index``-th of an endless row of colours, neighbours of which look different."""
    hue = (0.58 + index * _GOLDEN_RATIO) % 1.0
    saturation, value = ((0.80, 1.0), (0.95, 0.85), (0.60, 1.0))[index % 3]
    return tuple(round(255 * channel) for channel in colorsys.hsv_to_rgb(hue, saturation, value))


@functools.lru_cache(maxsize=16)
def _font(size: int) -> ImageFont.FreeTypeFont:
    import matplotlib  # for the font it ships, which has the letters of most languages

    path = os.path.join(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")
    return ImageFont.truetype(path, size, layout_engine=ImageFont.Layout.BASIC)


class VisImage:
    """An RGB image (H, W, 3), uint8, to draw on; ``scale`` enlarges what :meth:`get_image` returns."""

    def __init__(self, img: np.ndarray, scale: float = 1.0):
        self.img = img
        self.scale = scale
        self.height, self.width = img.shape[:2]
        self.reset_image(img)
        area = self._canvas.shape[0] * self._canvas.shape[1]
        self.font_size = int(np.clip(area**0.5 / 42, 11, 40))
        self.line_width = max(1, round(area**0.5 / 450))

    def reset_image(self, img: np.ndarray) -> None:
        """Start again from another image of the same size."""
        size = (round(self.width * self.scale), round(self.height * self.scale))
        way = cv2.INTER_CUBIC if self.scale > 1 else cv2.INTER_AREA
        self._canvas = np.ascontiguousarray(img[:, :, :3], dtype=np.uint8).copy()
        if self.scale != 1:
            self._canvas = cv2.resize(self._canvas, size, interpolation=way)
        self._labels: list[tuple[np.ndarray, tuple[int, int]]] = []

    def fill(self, mask: np.ndarray, color: RGB, alpha: float, edge: RGB) -> None:
        """Lay a colour over a binary mask (H, W), ``alpha`` opaque, with a contour in colour ``edge``."""
        soft = np.ascontiguousarray(mask, dtype=np.uint8) * 255
        if self.scale != 1:
            # Linear, then thresholded: enlarged masks get smooth edges instead of stairs.
            soft = cv2.resize(soft, self._canvas.shape[1::-1], interpolation=cv2.INTER_LINEAR)
        x, y, w, h = cv2.boundingRect(soft)
        if w == 0:
            return
        soft = soft[y : y + h, x : x + w]
        region = self._canvas[y : y + h, x : x + w]
        weight = (soft[:, :, None] / 255.0 * alpha).astype(np.float32)  # h, w, 1
        region[:] = np.rint(region * (1 - weight) + np.array(color, np.float32) * weight)
        # A frame of zeros keeps contours closed where the mask touches the border of its crop.
        binary = cv2.copyMakeBorder((soft > 127).astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT)
        contours, _ = cv2.findContours(binary, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(self._canvas, contours, -1, edge, self.line_width, cv2.LINE_AA, offset=(x - 1, y - 1))

    def rectangle(self, box: Sequence[float], color: RGB) -> None:
        """Draw the frame of a box (x0, y0, x1, y1)."""
        x0, y0, x1, y1 = (round(float(value) * self.scale) for value in box)
        cv2.rectangle(self._canvas, (x0, y0), (max(x1 - 1, x0), max(y1 - 1, y0)), color, self.line_width)

    def label(
        self, text: str, point: Sequence[float], color: RGB, *, centred: bool = False, size: float | None = None
    ) -> None:
        """Write a text on a ground of ``color``, above ``point`` (x, y) or with its centre there, inside the picture
        and over all that is drawn later."""
        size = round(size or self.font_size)
        font, pad = _font(size), max(2, size // 5)
        width, height = round(font.getlength(text)) + 2 * pad, sum(font.getmetrics()) + pad
        tag = Image.new("RGB", (width, height), color)
        dark_ground = np.dot(color, (0.299, 0.587, 0.114)) <= 140
        ImageDraw.Draw(tag).text((pad, pad / 2), text, "white" if dark_ground else "black", font)
        x, y = point[0] * self.scale, point[1] * self.scale
        x, y = (x - width / 2, y - height / 2) if centred else (x, y - height)
        rows, columns = self._canvas.shape[:2]
        corner = (int(np.clip(x, 0, max(columns - width, 0))), int(np.clip(y, 0, max(rows - height, 0))))
        self._labels.append((np.asarray(tag), corner))

    def get_image(self) -> np.ndarray:
        """The picture so far: RGB, uint8, (H * scale, W * scale, 3)."""
        picture = self._canvas.copy()
        for tag, (x, y) in self._labels:
            ground = picture[y : y + tag.shape[0], x : x + tag.shape[1]]
            ground[:] = np.rint(0.85 * tag[: ground.shape[0], : ground.shape[1]] + 0.15 * ground)
        return picture

    def save(self, filepath: str) -> None:
        """Write the picture; the file's ending names the format."""
        Image.fromarray(self.get_image()).save(filepath)

"""A picture to draw on: translucent masks with contours, boxes, and labels that keep out of each other's way.

H, W: the image's height and width; the canvas is (H * scale, W * scale). Positions are in image pixels.
"""

import colorsys
import functools
import os
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

RGB = tuple[int, int, int]
Rectangle = tuple[float, float, float, float]

_GOLDEN_RATIO = 0.618034
# A label that would lie on others by more than this share of itself is left out; its object stays drawn.
_MAX_LABEL_OVERLAP = 0.35


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


@dataclass
class _Label:
    text: str
    color: RGB
    box: Rectangle  # of the object, on the canvas
    centred: bool  # in the middle of the box, rather than at its upper left corner
    fixed: bool  # stays there whatever it covers
    font_size: int


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
        self._labels: list[_Label] = []
        self._objects: list[Rectangle] = []

    def fill(self, mask: np.ndarray, color: RGB, alpha: float, edge: RGB | None) -> None:
        """Lay a colour over a binary mask (H, W), ``alpha`` opaque, with a contour in colour ``edge``."""
        box = cv2.boundingRect(np.ascontiguousarray(mask, dtype=np.uint8))
        if box[2] == 0:
            return
        soft = np.ascontiguousarray(mask, dtype=np.uint8) * 255
        if self.scale != 1:
            # Linear, then thresholded: enlarged masks get smooth edges instead of stairs.
            soft = cv2.resize(soft, self._canvas.shape[1::-1], interpolation=cv2.INTER_LINEAR)
        x, y, w, h = cv2.boundingRect(soft)
        soft = soft[y : y + h, x : x + w]
        region = self._canvas[y : y + h, x : x + w]
        weight = (soft[:, :, None] / 255.0 * alpha).astype(np.float32)  # h, w, 1
        region[:] = np.rint(region * (1 - weight) + np.array(color, np.float32) * weight)
        if edge is not None:
            # A frame of zeros keeps contours closed where the mask touches the border of its crop.
            binary = cv2.copyMakeBorder((soft > 127).astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT)
            contours, _ = cv2.findContours(binary, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
            cv2.drawContours(self._canvas, contours, -1, edge, self.line_width, cv2.LINE_AA, offset=(x - 1, y - 1))

    def rectangle(self, box: Rectangle, color: RGB, alpha: float = 1.0) -> None:
        """Draw the frame of a box (x0, y0, x1, y1)."""
        x0, y0, x1, y1 = (round(float(v)) for v in self._scaled(box))
        corners = ((x0, y0), (max(x1 - 1, x0), max(y1 - 1, y0)))
        if alpha >= 1:
            cv2.rectangle(self._canvas, *corners, color, self.line_width)
            return
        drawn = cv2.rectangle(self._canvas.copy(), *corners, color, self.line_width)
        self._canvas = cv2.addWeighted(drawn, alpha, self._canvas, 1 - alpha, 0)

    def label(
        self,
        text: str,
        box: Rectangle,
        color: RGB,
        *,
        centred: bool = False,
        fixed: bool = False,
        size: float | None = None,
    ) -> None:
        """Name the object in ``box``. Where the label goes is decided when the picture is taken."""
        box = self._scaled(box)
        if not fixed:
            self._objects.append(box)
        if text:
            self._labels.append(_Label(text, color, box, centred, fixed, round(size or self.font_size)))

    def get_image(self) -> np.ndarray:
        """The picture so far: RGB, uint8, (H * scale, W * scale, 3)."""
        if not self._labels:
            return self._canvas.copy()
        overlay = Image.new("RGBA", self._canvas.shape[1::-1], (0, 0, 0, 0))
        draw = ImageDraw.Draw(overlay)
        placed: list[Rectangle] = []
        for label in self._labels:
            font = _font(label.font_size)
            pad = max(2, label.font_size // 5)
            size = (font.getlength(label.text) + 2 * pad, sum(font.getmetrics()) + pad)
            place = self._place(label, size, placed)
            if place is None:
                continue
            placed.append(place)
            ink = (0, 0, 0, 255) if _luminance(label.color) > 0.55 else (255, 255, 255, 255)
            draw.rounded_rectangle(place, radius=pad, fill=(*label.color, 215))
            draw.text((place[0] + pad, place[1] + pad / 2), label.text, font=font, fill=ink)
        base = Image.fromarray(self._canvas).convert("RGBA")
        return np.array(Image.alpha_composite(base, overlay).convert("RGB"))

    def save(self, filepath: str) -> None:
        """Write the picture; the file's ending names the format."""
        Image.fromarray(self.get_image()).save(filepath)

    def _scaled(self, box: Sequence[float]) -> Rectangle:
        return tuple(float(value) * self.scale for value in box)

    def _place(self, label: _Label, size: tuple[float, float], placed: list[Rectangle]) -> Rectangle | None:
        """The best of a few places by an object: inside the picture, on no label, on few other objects."""
        (width, height), (x0, y0, x1, y1) = size, label.box
        middle = ((x0 + x1 - width) / 2, (y0 + y1 - height) / 2)
        corners = [
            (x0, y0 - height),
            (x0, y0),
            (x1 - width, y0 - height),
            (x0, y1),
            (x0, y1 - height),
            middle,
            (x1, y0),
            (x0 - width, y0),
        ]
        if label.centred:
            corners = [middle, (middle[0], middle[1] - height), (middle[0], middle[1] + height)]
        best, lowest = None, float("inf")
        for rank, (x, y) in enumerate(corners[:1] if label.fixed else corners):
            x = min(max(x, 0), max(self._canvas.shape[1] - 1 - width, 0))
            y = min(max(y, 0), max(self._canvas.shape[0] - 1 - height, 0))
            place = (x, y, x + width, y + height)
            covered = max((_intersection(place, other) / (width * height) for other in placed), default=0)
            if covered > _MAX_LABEL_OVERLAP and not label.fixed:
                continue
            hidden = sum(
                min(_intersection(place, other) / max(_area(other), 1), 1)
                for other in self._objects
                if other is not label.box
            )
            cost = 4 * covered + hidden + 0.05 * rank
            if cost < lowest:
                best, lowest = place, cost
        return best


def _luminance(color: RGB) -> float:
    return (0.299 * color[0] + 0.587 * color[1] + 0.114 * color[2]) / 255


def _area(box: Rectangle) -> float:
    return max(box[2] - box[0], 0) * max(box[3] - box[1], 0)


def _intersection(a: Rectangle, b: Rectangle) -> float:
    return _area((max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])))

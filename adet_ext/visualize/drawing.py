"""Paint on images: masks, outlines, labels, and sheets of several panels.

Shapes: H, W image height and width in pixels. Images are RGB uint8 (H, W, 3) and are never changed in place;
masks are bool (H, W); boxes are (x0, y0, x1, y1), the edges in pixels; colors are RGB triples 0..255.
"""

from collections.abc import Sequence

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .fonts import font

__all__ = ["PALETTE", "draw_box", "draw_labels", "enlarge", "outline_mask", "paint_mask", "sheet", "signed_map"]

Color = tuple[int, int, int]

# Adjacent colors differ strongly in hue, so that the first few instances are easy to tell apart.
PALETTE: tuple[Color, ...] = (
    (255, 75, 62), (32, 156, 238), (255, 196, 0), (46, 204, 113), (175, 95, 255), (255, 133, 27),
    (0, 210, 211), (255, 99, 184), (155, 216, 45), (84, 110, 255), (214, 150, 96), (0, 150, 136),
)  # fmt: skip
PAPER: Color = (255, 255, 255)
INK: Color = (38, 42, 51)

# As light at -x as at +x, so that neither sign looks stronger; only zero is white.
_SIGNED_AT = (-1.0, -0.5, 0.0, 0.5, 1.0)
_SIGNED: tuple[Color, ...] = ((16, 62, 140), (92, 152, 214), (255, 255, 255), (232, 122, 92), (158, 22, 38))


def enlarge(image: np.ndarray, scale: int) -> np.ndarray:
    """Return ``image`` ``scale`` times as large, smoothly."""
    if scale == 1:
        return image
    return cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)


def resize(values: np.ndarray, size: tuple[int, int], kind: int = cv2.INTER_LINEAR) -> np.ndarray:
    """Return an image, or one channel of any numbers, at ``size`` (H, W)."""
    return cv2.resize(values, (size[1], size[0]), interpolation=kind)


def enlarge_mask(mask: np.ndarray, scale: int) -> np.ndarray:
    """Return the mask ``scale`` times as large, its outline within half an original pixel of where it was."""
    if scale == 1:
        return mask
    soft = cv2.resize(mask.astype(np.uint8) * 255, None, fx=scale, fy=scale, interpolation=cv2.INTER_LINEAR)
    return soft >= 128


def extent_of(mask: np.ndarray) -> tuple[slice, slice] | None:
    """Return the rows and columns that hold the mask, or None if it is empty."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return None
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def paint_mask(canvas: np.ndarray, mask: np.ndarray, color: Color, alpha: float) -> None:
    """Blend ``color`` into ``canvas`` where ``mask`` is set, in place; only its bounding rectangle is touched."""
    extent = extent_of(mask)
    if extent is None:
        return
    # A table of the 256 results per channel: a large mask costs no floating-point arithmetic.
    table = np.arange(256)[:, None] * (1 - alpha) + np.asarray(color) * alpha  # 256, 3
    blended = cv2.LUT(canvas[extent], table.astype(np.uint8)[:, None])
    np.copyto(canvas[extent], blended, where=mask[extent][..., None])


def outline_mask(canvas: np.ndarray, mask: np.ndarray, color: Color, width: int) -> None:
    """Draw the outlines of ``mask``, holes included, in place."""
    extent = extent_of(mask)
    if extent is None:
        return
    rows, columns = extent
    inside, offset = mask[extent].astype(np.uint8), (int(columns.start), int(rows.start))
    contours, _ = cv2.findContours(inside, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE, offset=offset)
    cv2.drawContours(canvas, contours, -1, color, width, cv2.LINE_AA)


def draw_box(canvas: np.ndarray, box: Sequence[float], color: Color, width: int) -> None:
    """Draw a rectangle in place."""
    x0, y0, x1, y1 = (int(round(float(value))) for value in box)
    cv2.rectangle(canvas, (x0, y0), (x1 - 1, y1 - 1), color, width, cv2.LINE_AA)


def readable_on(color: Color) -> Color:
    """Return black or white, whichever reads better on ``color`` (relative luminance, ITU-R BT.709)."""
    return (20, 22, 28) if np.dot(color, (0.2126, 0.7152, 0.0722)) > 120 else (255, 255, 255)


def draw_labels(
    canvas: np.ndarray, boxes: Sequence[Sequence[float]], labels: Sequence[str], colors: Sequence[Color], size: int
) -> np.ndarray:
    """Return ``canvas`` with one tag per box: on its upper edge, or where it covers no other tag.

    A tag is always inside the image. If every place is taken, the tag goes on the upper edge.
    """
    height, width = canvas.shape[:2]
    picture = Image.fromarray(canvas)
    pen, pad = ImageDraw.Draw(picture), max(2, size // 4)
    tag_height, taken = size + 2 * pad, []
    for box, label, color in zip(boxes, labels, colors):
        if not label:
            continue
        letters = font(size, label)
        tag_width = int(pen.textlength(label, font=letters)) + 2 * pad
        x0, y0, x1, y1 = (float(value) for value in box)
        places = [
            (x0, y0 - tag_height), (x0, y0), (x0, y1), (x0, y1 - tag_height), (x1 - tag_width, y0 - tag_height),
            (x1 - tag_width, y1), ((x0 + x1 - tag_width) / 2, (y0 + y1 - tag_height) / 2),
        ]  # fmt: skip
        places = [
            (int(min(max(x, 0), max(width - tag_width, 0))), int(min(max(y, 0), max(height - tag_height, 0))))
            for x, y in places
        ]
        free = [place for place in places if not any(_overlap(place, tag_width, tag_height, t) for t in taken)]
        x, y = (free or places)[0]
        taken.append((x, y, tag_width, tag_height))
        pen.rounded_rectangle((x, y, x + tag_width - 1, y + tag_height - 1), radius=pad, fill=color)
        pen.text((x + pad, y + tag_height / 2), label, font=letters, fill=readable_on(color), anchor="lm")
    return np.array(picture)


def _overlap(place: tuple[int, int], width: int, height: int, other: tuple[int, int, int, int]) -> bool:
    x, y, w, h = other
    return place[0] < x + w and x < place[0] + width and place[1] < y + h and y < place[1] + height


def heat_map(values: np.ndarray, color: Color, size: tuple[int, int], low: float, high: float) -> np.ndarray:
    """Return numbers as a heat map: black at ``low``, through ``color``, to white at ``high``.

    Args:
        values: float (h, w), clipped to the ends and interpolated bilinearly.
        size: (H, W) of the picture.
    """
    shares = ((np.asarray(values, dtype=np.float32) - low) / max(high - low, 1e-6)).clip(0, 1)
    return _ramp(resize(shares, size), (0.0, 0.62, 1.0), ((12, 13, 18), tuple(0.9 * c for c in color), (255, 255, 255)))


def signed_map(values: np.ndarray, limit: float, size: tuple[int, int], *, cells: bool = False) -> np.ndarray:
    """Return numbers of either sign as colors: red above zero, blue below, white at zero, darkest at ``limit``.

    Args:
        values: float (h, w), clipped to plus or minus ``limit``.
        limit: positive.
        size: (H, W) of the picture.
        cells: draw every number as a cell instead of interpolating bilinearly.
    """
    kind = cv2.INTER_NEAREST if cells else cv2.INTER_LINEAR
    return _ramp(resize(np.asarray(values, dtype=np.float32) / limit, size, kind), _SIGNED_AT, _SIGNED)


def _ramp(values: np.ndarray, stops: Sequence[float], colors: Sequence[Color]) -> np.ndarray:
    channels = [np.interp(values, stops, [color[channel] for color in colors]) for channel in range(3)]
    return np.stack(channels, axis=-1).astype(np.uint8)


def sheet(
    panels: Sequence[np.ndarray],
    captions: Sequence[str] = (),
    *,
    columns: int | None = None,
    cell: tuple[int, int] | None = None,
    gap: int = 12,
    size: int = 15,
    title: str = "",
) -> np.ndarray:
    """Return one picture with ``panels`` in rows, each with its caption above it, on white.

    Args:
        panels: RGB images of any sizes, at least one.
        captions: one per panel, or none. A caption too wide for its panel is cut with an ellipsis.
        columns: panels in a row; all in one row by default.
        cell: (height, width) every panel is fitted into, keeping its aspect; by default the largest panel's.
        gap: space between panels and around them, in pixels.
        size: height of the captions' letters, in pixels.
        title: a line above all.
    """
    if not len(panels):
        raise ValueError("a sheet must have at least one panel; got none")
    columns = min(columns or len(panels), len(panels))
    rows = -(-len(panels) // columns)
    cell_h, cell_w = cell or (max(p.shape[0] for p in panels), max(p.shape[1] for p in panels))
    text_h = int(size * 1.7) if len(captions) else 0
    title_h = int(size * 2.3) if title else 0
    full_h = gap + title_h + rows * (cell_h + text_h + gap)
    picture = Image.new("RGB", (gap + columns * (cell_w + gap), full_h), PAPER)
    pen = ImageDraw.Draw(picture)
    if title:
        heading = font(int(size * 1.25), title)
        pen.text((gap, gap + title_h * 0.4), _fit(pen, title, heading, picture.width - 2 * gap), INK, heading, "lm")
    for index, panel in enumerate(panels):
        row, column = divmod(index, columns)
        x, y = gap + column * (cell_w + gap), gap + title_h + row * (cell_h + text_h + gap)
        if text_h:
            letters = font(size, str(captions[index]))
            caption = _fit(pen, str(captions[index]), letters, cell_w)
            pen.text((x, y + text_h * 0.45), caption, INK, letters, "lm")
        fitted = _fit_panel(panel, cell_h, cell_w)
        left, top = x + (cell_w - fitted.shape[1]) // 2, y + text_h + (cell_h - fitted.shape[0]) // 2
        picture.paste(Image.fromarray(fitted), (left, top))
    return np.array(picture)


def _fit_panel(panel: np.ndarray, height: int, width: int) -> np.ndarray:
    scale = min(height / panel.shape[0], width / panel.shape[1])
    if scale == 1:
        return panel
    shape = (max(1, round(panel.shape[1] * scale)), max(1, round(panel.shape[0] * scale)))
    return cv2.resize(panel, shape, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)


def _fit(pen: ImageDraw.ImageDraw, text: str, letters: ImageFont.FreeTypeFont, width: int) -> str:
    if pen.textlength(text, font=letters) <= width:
        return text
    while text and pen.textlength(text + "…", font=letters) > width:
        text = text[:-1]
    return text + "…"

"""Scenes of the built-in "shapes" data set: layout and painting.

Shapes: H, W canvas size in pixels; R instances of a scene, bottom-most first; h, w the patch of one instance.
Coordinates are continuous pixels: the center of the top-left pixel is (0.5, 0.5). Random numbers come from
``numpy.random.RandomState``, whose streams NumPy has frozen, so that a scene is the same in every version.
"""

import colorsys
import dataclasses
import functools
from collections.abc import Iterable

import numpy as np

__all__ = [
    "STUFF_CLASSES",
    "THING_CLASSES",
    "Backdrop",
    "Scene",
    "Shape",
    "compose",
    "paint",
    "random_backdrop",
    "random_scene",
]

THING_CLASSES = ("circle", "square", "triangle", "star", "ring", "cross")
STUFF_CLASSES = ("noise", "gradient", "stripes")

# Shapes are rasterized at this many times the resolution and averaged, which gives anti-aliased edges.
_OVERSAMPLING = 4
# An instance is left out if a smaller part of it, or fewer pixels (at 128 x 128), are visible.
_MIN_VISIBLE, _MIN_PIXELS = 0.45, 60.0
_PLACEMENT_TRIES = 8


@dataclasses.dataclass(frozen=True)
class Shape:
    """One instance: its class, center (pixels), diameter (pixels), turn (radians), height over width, and paint."""

    category: int
    x: float
    y: float
    diameter: float
    angle: float
    aspect: float
    color: tuple[float, float, float]
    shade: tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Patch:
    """A shape on the canvas: coverage in [0, 1], float32 [h, w], and its top-left pixel."""

    top: int
    left: int
    coverage: np.ndarray
    full_area: float  # in pixels, including the part outside the canvas

    @property
    def window(self) -> tuple[slice, slice]:
        h, w = self.coverage.shape
        return slice(self.top, self.top + h), slice(self.left, self.left + w)


@dataclasses.dataclass(frozen=True)
class Backdrop:
    """Texture, float32 RGB [H, W, 3] in 0..255, and the stuff class of each pixel, uint8 [H, W]."""

    texture: np.ndarray
    stuff: np.ndarray


@dataclasses.dataclass(frozen=True)
class Scene:
    """Shapes with their patches, bottom-most first; ``masks`` are the visible parts, disjoint bool [H, W]."""

    height: int
    width: int
    shapes: tuple[Shape, ...]
    patches: tuple[Patch, ...]
    masks: tuple[np.ndarray, ...]


@functools.cache
def outlines(category: int) -> tuple[np.ndarray, ...]:
    """Closed outlines of a class as float64 [points, 2] within the unit disc; filled by the even-odd rule."""
    name = THING_CLASSES[category]
    if name == "circle":
        return (_on_circle(48, 1.0),)
    if name == "ring":
        return _on_circle(48, 1.0), _on_circle(48, 0.52)
    if name == "triangle":
        return (_on_circle(3, 1.0, -np.pi / 2),)
    if name == "square":
        return (_on_circle(4, 1.0, np.pi / 4),)
    if name == "star":
        points = _on_circle(10, 1.0, -np.pi / 2)
        points[1::2] *= 0.42
        return (points,)
    arm = 0.32
    corners = [(arm, arm), (arm, 0.95), (-arm, 0.95), (-arm, arm), (-0.95, arm), (-0.95, -arm)]
    return (np.array(corners + [(-x, -y) for x, y in corners]),)  # a cross is its own half-turn


def _on_circle(count: int, radius: float, start: float = 0.0) -> np.ndarray:
    angles = start + np.arange(count) * (2 * np.pi / count)
    return radius * np.stack([np.cos(angles), np.sin(angles)], 1)


def rasterize(shape: Shape, height: int, width: int) -> Patch | None:
    """Return the part of ``shape`` on the canvas, or None if there is none."""
    import cv2

    cos, sin = np.cos(shape.angle), np.sin(shape.angle)
    turn = np.array([[cos, sin], [-sin, cos]])
    stretch = shape.diameter / 2 * np.array([shape.aspect**-0.5, shape.aspect**0.5])
    rings = [points * stretch @ turn + (shape.x, shape.y) for points in outlines(shape.category)]
    # Inner outlines are inside the first one.
    (x0, y0), (x1, y1) = np.floor(rings[0].min(0)).astype(int), np.ceil(rings[0].max(0)).astype(int)
    k = _OVERSAMPLING
    large = np.zeros(((y1 - y0) * k, (x1 - x0) * k), np.uint8)
    # fillPoly's points are pixel centers, in 1/16 of a pixel.
    corners = [np.round(((ring - (x0, y0)) * k - 0.5) * 16).astype(np.int32) for ring in rings]
    cv2.fillPoly(large, corners, 255, shift=4)
    coverage = cv2.resize(large, (x1 - x0, y1 - y0), interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    top, left, bottom, right = max(y0, 0), max(x0, 0), min(y1, height), min(x1, width)
    if top >= bottom or left >= right:
        return None
    full_area = float(np.count_nonzero(coverage >= 0.5))
    return Patch(int(top), int(left), coverage[top - y0 : bottom - y0, left - x0 : right - x0], full_area)


def compose(shapes: Iterable[Shape], height: int, width: int) -> Scene:
    """Compose ``shapes``, bottom-most first. Hidden ones stay, with an empty mask and patch."""
    shapes = tuple(shapes)
    free = np.ones((height, width), bool)
    patches, masks = [], []
    for shape in reversed(shapes):
        patch = rasterize(shape, height, width) or Patch(0, 0, np.zeros((0, 0), np.float32), 0.0)
        patches.append(patch)
        masks.append(_claim(free, patch))
    return Scene(height, width, shapes, tuple(patches[::-1]), tuple(masks[::-1]))


def _claim(free: np.ndarray, patch: Patch) -> np.ndarray:
    """Return the free pixels under ``patch`` as a mask [H, W], and remove them from ``free``."""
    mask = np.zeros(free.shape, bool)
    covered = patch.coverage >= 0.5
    mask[patch.window] = covered & free[patch.window]
    free[patch.window] &= ~covered
    return mask


def random_scene(rng: np.random.RandomState, height: int, width: int) -> Scene:
    """Return 2 to 6 visible shapes of 0.14 to 0.55 of the shorter side.

    Shapes are placed from the top down, so that the visible part of each is known when it is placed. A shape with too
    small a visible part is tried elsewhere, and left out after some tries.
    """
    unit = min(height, width)
    free = np.ones((height, width), bool)
    shapes, patches, masks = [], [], []
    for _ in range(rng.randint(2, 7)):
        shape = _random_shape(rng, unit)
        for _ in range(_PLACEMENT_TRIES):
            margin = 0.2 * shape.diameter
            x, y = rng.uniform(margin, width - margin), rng.uniform(margin, height - margin)
            placed = dataclasses.replace(shape, x=x, y=y)
            patch = rasterize(placed, height, width)
            visible = np.count_nonzero((patch.coverage >= 0.5) & free[patch.window]) if patch else 0
            if visible >= max(_MIN_VISIBLE * patch.full_area, _MIN_PIXELS * (unit / 128) ** 2):
                shapes.append(placed)
                patches.append(patch)
                masks.append(_claim(free, patch))
                break
    return Scene(height, width, tuple(shapes[::-1]), tuple(patches[::-1]), tuple(masks[::-1]))


def _random_shape(rng: np.random.RandomState, unit: int) -> Shape:
    """Return a shape at the origin. The logarithm of its size is evenly distributed."""
    diameter = unit * np.exp(rng.uniform(np.log(18 / 128), np.log(70 / 128)))
    return Shape(
        category=int(rng.randint(len(THING_CLASSES))),
        x=0.0,
        y=0.0,
        diameter=float(diameter),
        angle=float(rng.uniform(-0.4, 0.4)),
        aspect=float(np.exp(rng.uniform(-0.2, 0.2))),
        color=_vivid_color(rng),
        shade=tuple(rng.uniform(-0.3, 0.3, 2).tolist()),
    )


def _vivid_color(rng: np.random.RandomState) -> tuple[float, float, float]:
    """Return a saturated color of any hue, RGB in 0..255."""
    red, green, blue = colorsys.hsv_to_rgb(rng.uniform(0, 1), rng.uniform(0.6, 1), rng.uniform(0.75, 1))
    return 255 * red, 255 * green, 255 * blue


def random_backdrop(rng: np.random.RandomState, height: int, width: int) -> Backdrop:
    """Return one to three regions with wavy borders and different textures."""
    kinds = rng.permutation(len(STUFF_CLASSES))[: (1, 2, 2, 3)[rng.randint(4)]]
    y, x = np.indices((height, width), np.float32) + np.float32(0.5)
    stuff = np.full((height, width), kinds[0], np.uint8)
    for kind in kinds[1:]:
        stuff[_half_plane(rng, x, y)] = kind
    # A pixel is base + level * contrast of its region.
    # Backdrops are muted and shapes vivid, so that small models learn the shapes in minutes.
    gray = rng.uniform(70, 170, (len(STUFF_CLASSES), 1))
    base = (gray + rng.uniform(-30, 30, (len(STUFF_CLASSES), 3))).astype(np.float32)
    contrast = rng.uniform(-45, 45, (len(STUFF_CLASSES), 3)).astype(np.float32)
    level = np.zeros((height, width), np.float32)
    for kind in kinds:
        np.copyto(level, _texture(rng, STUFF_CLASSES[kind], x, y), where=stuff == kind)
    return Backdrop(base[stuff] + level[..., None] * contrast[stuff], stuff)


def _half_plane(rng: np.random.RandomState, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    height, width = x.shape
    unit, angle = min(height, width), rng.uniform(0, 2 * np.pi)
    cos, sin = float(np.cos(angle)), float(np.sin(angle))
    x, y = x - width * rng.uniform(0.3, 0.7), y - height * rng.uniform(0.3, 0.7)
    height_of_wave, length = unit * rng.uniform(0, 0.06), unit * rng.uniform(0.3, 0.8)
    wave = height_of_wave * np.sin((y * cos - x * sin) * (2 * np.pi / length))
    return x * cos + y * sin + wave > 0


def _texture(rng: np.random.RandomState, name: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return float32 [H, W], mostly between -1 and 1."""
    import cv2

    height, width = x.shape
    angle = rng.uniform(0, 2 * np.pi)
    unit = min(height, width)
    along = (x * float(np.cos(angle)) + y * float(np.sin(angle))) / unit
    if name == "noise":
        cells = rng.randint(5, 20)
        coarse = rng.standard_normal((cells, cells)).astype(np.float32)
        return 0.5 * cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    if name == "gradient":
        return along - along.mean()
    return 0.5 * np.clip(2.5 * np.sin(along * (2 * np.pi / rng.uniform(0.05, 0.16))), -1, 1)


def _grain(rng: np.random.RandomState, height: int, width: int) -> np.ndarray:
    """Return noise of variance about 1. Sums of two bytes are close to normal and take a tenth of the time."""
    raw = np.frombuffer(rng.bytes(height * width * 2), np.uint8).reshape(2, height, width)
    return (raw.astype(np.float32).sum(0) - 255) / 104


def paint(rng: np.random.RandomState, scene: Scene, backdrop: Backdrop, steady: bool = False) -> np.ndarray:
    """Return the picture, RGB uint8 [H, W, 3].

    ``steady`` is for the frames of a video: brightness and colors stay the same between frames.
    """
    import cv2

    canvas = backdrop.texture.copy()
    for shape, patch in zip(scene.shapes, scene.patches):
        if not patch.coverage.size:
            continue
        rows, columns = patch.window
        y = (np.arange(rows.start, rows.stop) + 0.5 - shape.y) / shape.diameter
        x = (np.arange(columns.start, columns.stop) + 0.5 - shape.x) / shape.diameter
        light = 1 + shape.shade[0] * y[:, None] + shape.shade[1] * x  # [h, w]
        light = (light * _surface(shape, y[:, None], x)).astype(np.float32)
        under = canvas[patch.window]
        color = np.asarray(shape.color, np.float32)
        if not steady:
            color = _set_off(color, under, patch.coverage)
        under += patch.coverage[..., None] * (light[..., None] * color - under)
    canvas += (_grain(rng, scene.height, scene.width) * rng.uniform(2, 8))[..., None]
    if not steady:
        canvas *= rng.uniform(0.75, 1.2)
        canvas += rng.uniform(-15, 15)
    return cv2.convertScaleAbs(np.clip(canvas, 0, 255, out=canvas))  # rounds


def _surface(shape: Shape, y: np.ndarray, x: np.ndarray) -> np.ndarray | float:
    """Return the brightness of a class' pattern at offsets from the center in diameters: [h, 1], [w] -> [h, w] or 1."""
    name = THING_CLASSES[shape.category]
    if name in ("circle", "ring"):
        return 1.0
    cos, sin = np.cos(shape.angle), np.sin(shape.angle)
    u, v = x * cos + y * sin, y * cos - x * sin  # turned with the shape
    if name == "square":
        return np.where(np.sin(4 * np.pi * u) * np.sin(4 * np.pi * v) > 0, 1.0, 0.45)
    if name == "triangle":
        return np.where(np.sin(8 * np.pi * v) > 0, 1.0, 0.45)
    if name == "star":
        return np.where(u * u + v * v < 0.16**2, 0.35, 1.0)
    return np.where(np.abs(u) < 0.16, 0.45, 1.0)  # one arm of a cross is darker


def _set_off(color: np.ndarray, under: np.ndarray, coverage: np.ndarray) -> np.ndarray:
    """Return ``color``, or its opposite if it is too close to the color below."""
    beneath = (under * coverage[..., None]).sum((0, 1)) / max(coverage.sum(), 1e-6)
    return color if np.abs(color - beneath).max() > 45 else (color + 128) % 256

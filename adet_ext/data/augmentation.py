"""Build the augmentations of a config, including a crop around an instance.

Shapes: H, W image height and width; R instances. Boxes are (x0, y0, x1, y1) in pixels, edges not centers.
"""

import numpy as np

from ..d2.config import CfgNode
from ..d2.data import transforms as T
from ..errors import UserError

__all__ = [
    "InstanceCropTransform",
    "RandomCropWithInstance",
    "ResizeShorterSide",
    "ScaleJitter",
    "build_augmentation",
    "cuts_instances",
]


class InstanceCropTransform(T.CropTransform):
    """fvcore's crop, with polygon clipping that does not need shapely.

    If the crop cuts a polygon in pieces, they stay joined by lines along the border, which have no area.
    """

    def apply_polygons(self, polygons: list[np.ndarray]) -> list[np.ndarray]:
        """Clip float [points, 2] polygons to the crop and shift them. Drop those without area."""
        clipped = (clip_polygon(p, self.x0, self.y0, self.x0 + self.w, self.y0 + self.h) for p in polygons)
        return [p - (self.x0, self.y0) for p in clipped if len(p) >= 3 and (np.ptp(p, axis=0) > 1e-6).all()]


def clip_polygon(points: np.ndarray, x0: float, y0: float, x1: float, y1: float) -> np.ndarray:
    """Return the part of a polygon [points, 2] within a rectangle (Sutherland and Hodgman). It may be empty."""
    points = np.asarray(points, np.float64).reshape(-1, 2)
    inside = (points >= (x0, y0)).all() and (points <= (x1, y1)).all()
    if inside:
        return points
    for axis, limit, sign in ((0, x0, 1), (0, x1, -1), (1, y0, 1), (1, y1, -1)):
        points = _clip_half(points, axis, limit, sign)
    return _without_spikes(points)


def _clip_half(points: np.ndarray, axis: int, limit: float, sign: int) -> np.ndarray:
    """Keep where sign * (coordinate - limit) >= 0."""
    if not len(points):
        return points
    distance = sign * (points[:, axis] - limit)
    following, next_distance = np.roll(points, -1, 0), np.roll(distance, -1)
    crosses = (distance >= 0) != (next_distance >= 0)
    share = np.divide(distance, distance - next_distance, out=np.zeros_like(distance), where=crosses)
    crossing = points + share[:, None] * (following - points)
    crossing[:, axis] = limit  # set exactly, so that the next step recognizes points on the border
    both = np.stack([points, crossing], 1).reshape(-1, 2)
    return both[np.stack([distance >= 0, crosses], 1).reshape(-1)]


def _without_spikes(points: np.ndarray) -> np.ndarray:
    """Drop corners at which the outline turns back on itself: there it only ran along the border and back, past the
    part that is left, and would widen its box."""
    corners = [tuple(p) for p in points.tolist()]
    i = unchanged = 0
    while len(corners) >= 3 and unchanged <= len(corners):
        i %= len(corners)
        before, here, after = corners[i - 1], corners[i], corners[(i + 1) % len(corners)]
        ax, ay, bx, by = before[0] - here[0], before[1] - here[1], after[0] - here[0], after[1] - here[1]
        back = ax * by - ay * bx == 0 and ax * bx + ay * by >= 0  # also removes equal corners
        if back:
            del corners[i]
            i, unchanged = max(i - 1, 0), 0
        else:
            i, unchanged = i + 1, unchanged + 1
    return np.array(corners, np.float64).reshape(-1, 2)


class ResizeShorterSide(T.ResizeShortestEdge):
    """Detectron2's resize, with at least one pixel a side. It would resize 30000 x 1 pixels to 1333 x 0."""

    def get_transform(self, image: np.ndarray) -> T.Transform:
        transform = super().get_transform(image)
        if isinstance(transform, T.ResizeTransform) and min(transform.new_h, transform.new_w) < 1:
            height, width = max(transform.new_h, 1), max(transform.new_w, 1)
            return T.ResizeTransform(*image.shape[:2], height, width, transform.interp)
        return transform


class ScaleJitter(ResizeShorterSide):
    """Large-scale jitter (Ghiasi et al., 2021): a resize whose scale is then multiplied by a random factor.

    An image that becomes larger than without the factor is cut back to that size, by a window that contains the center
    of a random instance; one that becomes smaller stays so, because batches are padded anyway.

    Args:
        factors: the smallest and the largest factor, drawn evenly.
        resize: the arguments of ResizeShortestEdge.
    """

    def __init__(self, factors: tuple[float, float], *resize):
        super().__init__(*resize)
        self.factors = factors
        self.input_args = ("image", "boxes")

    def get_transform(self, image: np.ndarray, boxes: np.ndarray | None) -> T.TransformList:
        height, width = image.shape[:2]
        plain = super().get_transform(image)
        if not isinstance(plain, T.ResizeTransform):
            return T.TransformList([plain])
        factor = np.random.uniform(*self.factors)
        new_h, new_w = (max(int(side * factor + 0.5), 1) for side in (plain.new_h, plain.new_w))
        resize = T.ResizeTransform(height, width, new_h, new_w, plain.interp)
        if factor <= 1:
            return T.TransformList([resize])
        crop = RandomCropWithInstance("absolute", (plain.new_h, plain.new_w))
        larger = np.broadcast_to(np.uint8(0), (new_h, new_w))  # of which only the shape counts
        return T.TransformList([resize, crop.get_transform(larger, None if boxes is None else resize.apply_box(boxes))])


class RandomCropWithInstance(T.RandomCrop):
    """A crop at a random place that contains the center of a random instance.

    Args:
        crop_type, crop_size: as for Detectron2's ``RandomCrop``.
        crop_instance: whether instances may be cut. False: the crop grows until every instance is entirely inside
            or outside, if necessary to the full image.
    """

    def __init__(self, crop_type: str, crop_size: tuple[float, float], crop_instance: bool = True):
        super().__init__(crop_type, crop_size)
        self.crop_instance = crop_instance
        self.input_args = ("image", "boxes")

    def get_transform(self, image: np.ndarray, boxes: np.ndarray | None) -> InstanceCropTransform:
        """``boxes``: float [R, 4] or None. Without instances the crop may be anywhere."""
        height, width = image.shape[:2]
        crop_h, crop_w = (int(v) for v in self.get_crop_size((height, width)))
        if boxes is None or not len(boxes):
            x0, y0 = np.random.randint(width - crop_w + 1), np.random.randint(height - crop_h + 1)
            return InstanceCropTransform(int(x0), int(y0), crop_w, crop_h)
        boxes = np.asarray(boxes, np.float64).clip(0, [width, height, width, height])
        box = boxes[np.random.randint(len(boxes))]
        x0 = _start(box[0] + box[2], crop_w, width)
        y0 = _start(box[1] + box[3], crop_h, height)
        window = np.array([x0, y0, x0 + crop_w, y0 + crop_h], np.int64)
        if not self.crop_instance:
            window = _grown(window, boxes)
        x0, y0, x1, y1 = window.tolist()
        return InstanceCropTransform(x0, y0, x1 - x0, y1 - y0)


def _start(twice_center: float, crop: int, length: int) -> int:
    """Draw where along one axis a crop may start so that it is in the image and contains the center."""
    center = twice_center / 2
    low = max(int(np.ceil(center)) - crop, 0)
    high = min(int(np.floor(center)), length - crop)
    return int(np.random.randint(low, max(low, high) + 1))


def _grown(window: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Return the smallest whole-pixel window around ``window`` that cuts none of ``boxes``."""
    boxes = np.concatenate([np.floor(boxes[:, :2]), np.ceil(boxes[:, 2:])], 1).astype(np.int64)
    while True:
        overlap = np.minimum(boxes[:, 2:], window[2:]) - np.maximum(boxes[:, :2], window[:2])
        touched = boxes[(overlap > 0).all(1)]
        if not len(touched):
            return window
        grown = np.concatenate(
            [np.minimum(window[:2], touched[:, :2].min(0)), np.maximum(window[2:], touched[:, 2:].max(0))]
        )
        if (grown == window).all():
            return window
        window = grown


def cuts_instances(cfg: CfgNode) -> bool:
    """Whether the augmentations of training may leave a part of an instance."""
    return cfg.INPUT.CROP.ENABLED or cfg.INPUT.SCALE_JITTER[1] > 1


def build_augmentation(cfg: CfgNode, is_train: bool) -> list[T.Augmentation]:
    """Return the augmentations of ``cfg.INPUT``: crop (training), resize of the shorter side, flip (training).

    Raises:
        UserError: ``INPUT.IS_ROTATE`` is on, which is not supported, or a range or the crop does not fit.
    """
    if not is_train:
        return [ResizeShorterSide(cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST, "choice")]
    if cfg.INPUT.IS_ROTATE:
        raise UserError("INPUT.IS_ROTATE must be False, because rotated boxes would not fit; got True")
    sizes, style = cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING
    if style == "range" and len(sizes) != 2:
        raise UserError(f"INPUT.MIN_SIZE_TRAIN must be two sizes for sampling from a range; got {tuple(sizes)}")
    resize = (sizes, cfg.INPUT.MAX_SIZE_TRAIN, style)
    low, high = factors = tuple(cfg.INPUT.SCALE_JITTER)
    if not 0 < low <= high:
        raise UserError(f"INPUT.SCALE_JITTER must be two factors above 0, the smaller one first; got {factors}")
    jitters = factors != (1.0, 1.0)
    augmentations: list[T.Augmentation] = [ScaleJitter(factors, *resize) if jitters else ResizeShorterSide(*resize)]
    if cfg.INPUT.CROP.ENABLED:
        try:
            crop = RandomCropWithInstance(cfg.INPUT.CROP.TYPE, cfg.INPUT.CROP.SIZE, cfg.INPUT.CROP.CROP_INSTANCE)
        except AssertionError as error:
            crop = cfg.INPUT.CROP
            raise UserError(f"INPUT.CROP.SIZE must fit INPUT.CROP.TYPE {crop.TYPE!r}; got {crop.SIZE}") from error
        augmentations.insert(0, crop)
    if cfg.INPUT.HFLIP_TRAIN and cfg.INPUT.RANDOM_FLIP != "none":
        kind = cfg.INPUT.RANDOM_FLIP
        if kind not in ("horizontal", "vertical"):
            raise UserError(f"INPUT.RANDOM_FLIP must be horizontal, vertical or none; got {kind!r}")
        augmentations.append(T.RandomFlip(horizontal=kind == "horizontal", vertical=kind == "vertical"))
    return augmentations

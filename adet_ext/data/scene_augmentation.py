"""Augment the frames of a clip and their label maps, all alike: scale, pad, crop, flip.

T frames; H, W their height and width. Random numbers come from NumPy's global generator.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from ..d2.config import CfgNode
from ..errors import UserError
from .semantic_sets import IGNORE

__all__ = ["SceneAugmentation", "resize_frames"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class SceneAugmentation:
    """What training does to a clip (thesis 6.4 and appendix A.1).

    Attributes:
        longer_side: the longer side in pixels before anything else; 0: as it is.
        scales: the range of the random scale; (1, 1): none.
        pad_to: each side is padded to at least this, evenly on both ends.
        crop: each side is cut at random to at most this; 0: none.
        pad_color: in the order of the images' channels, 0 to 255.
        flip: mirror half of the clips.
    """

    longer_side: int = 0
    scales: tuple[float, float] = (1.0, 1.0)
    pad_to: int = 0
    crop: int = 0
    pad_color: tuple[float, float, float] = (0, 0, 0)
    flip: bool = False

    @classmethod
    def from_config(cls, cfg: CfgNode) -> "SceneAugmentation":
        """Return what ``INPUT.SEMANTIC`` describes.

        Raises:
            UserError: a value does not fit.
        """
        keys = cfg.INPUT.SEMANTIC
        if not 0 < keys.MIN_SCALE <= keys.MAX_SCALE:
            raise UserError(
                "INPUT.SEMANTIC.MIN_SCALE must be above 0 and at most MAX_SCALE; got "
                f"{keys.MIN_SCALE} and {keys.MAX_SCALE}"
            )
        for key in ("LONGER_SIDE", "PAD_TO", "CROP"):
            if keys[key] < 0:
                raise UserError(f"INPUT.SEMANTIC.{key} must be 0 or more; got {keys[key]}")
        if keys.PAD_VALUE not in ("zero", "mean"):
            raise UserError(f"INPUT.SEMANTIC.PAD_VALUE must be zero or mean; got {keys.PAD_VALUE!r}")
        flip = cfg.INPUT.HFLIP_TRAIN and cfg.INPUT.RANDOM_FLIP != "none"
        if flip and cfg.INPUT.RANDOM_FLIP != "horizontal":
            raise UserError(f"INPUT.RANDOM_FLIP must be horizontal or none; got {cfg.INPUT.RANDOM_FLIP!r}")
        return cls(
            longer_side=keys.LONGER_SIDE,
            scales=(keys.MIN_SCALE, keys.MAX_SCALE),
            pad_to=keys.PAD_TO,
            crop=keys.CROP,
            pad_color=tuple(cfg.MODEL.PIXEL_MEAN) if keys.PAD_VALUE == "mean" else (0, 0, 0),
            flip=flip,
        )

    def __call__(
        self, frames: Sequence[np.ndarray], labels: Sequence[np.ndarray]
    ) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Return frames and label maps of the new size.

        Args:
            frames: T images of one size, uint8 (H, W, 3).
            labels: T label maps, uint8 (H, W).
        """
        # All random numbers are drawn first, in one order, whatever is switched off.
        scale = np.random.uniform(*self.scales)
        place, mirrored = np.random.random_sample(2), np.random.random_sample() < 0.5
        size = _scaled(frames[0].shape[:2], self.longer_side, scale)
        frames = resize_frames(frames, size)
        labels = [_resize(x, size, "INTER_NEAREST") for x in labels]
        # A crop smaller than the padding would only be cut from the padded image.
        frames = [_pad(x, self.pad_to, self.pad_color) for x in frames]
        labels = [_pad(x, self.pad_to, IGNORE) for x in labels]
        if self.crop:
            window = tuple(_cut(length, self.crop, p) for length, p in zip(frames[0].shape, place))
            frames, labels = [x[window] for x in frames], [x[window] for x in labels]
        if self.flip and mirrored:
            frames, labels = [x[:, ::-1] for x in frames], [x[:, ::-1] for x in labels]
        return frames, labels


def resize_frames(frames: Sequence[np.ndarray], size: tuple[int, int]) -> list[np.ndarray]:
    """Return uint8 (H, W, 3) images at ``size``: averaged where they shrink, else interpolated bilinearly."""
    kind = "INTER_AREA" if size[0] < frames[0].shape[0] else "INTER_LINEAR"
    return [_resize(x, size, kind) for x in frames]


def with_longer_side(size: tuple[int, int], longer_side: int) -> tuple[int, int]:
    """Return (H, W) with the longer side at ``longer_side`` pixels; 0: as it is."""
    return _scaled(size, longer_side, 1.0)


def _scaled(size: tuple[int, int], longer_side: int, scale: float) -> tuple[int, int]:
    factor = scale * (longer_side / max(size) if longer_side else 1)
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def _resize(image: np.ndarray, size: tuple[int, int], kind: str) -> np.ndarray:
    import cv2

    return image if image.shape[:2] == size else cv2.resize(image, size[::-1], interpolation=getattr(cv2, kind))


def _pad(image: np.ndarray, least: int, value: float | Sequence[float]) -> np.ndarray:
    height, width = (max(length, least) for length in image.shape[:2])
    if (height, width) == image.shape[:2]:
        return image
    padded = np.empty((height, width, *image.shape[2:]), image.dtype)
    padded[...] = np.rint(value)
    top, left = (height - image.shape[0]) // 2, (width - image.shape[1]) // 2
    padded[top : top + image.shape[0], left : left + image.shape[1]] = image
    return padded


def _cut(length: int, crop: int, place: float) -> slice:
    """A part of at most ``crop`` pixels; ``place`` in [0, 1) says where."""
    start = int(place * (max(length - crop, 0) + 1))
    return slice(start, start + min(crop, length))

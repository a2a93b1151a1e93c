"""Augmentations: policies that look at an input, draw random numbers, and choose a deterministic transform.

H, W image height and width. Random numbers come from numpy's global generator, in the kind and order of
Detectron2, so that a seed gives the same training data on either engine.
"""

import inspect
import sys
from collections.abc import Sequence

import numpy as np
import torch
from fvcore.transforms.transform import (
    CropTransform,
    HFlipTransform,
    NoOpTransform,
    Transform,
    TransformList,
    VFlipTransform,
)
from PIL import Image
from torch.nn import functional as F

_TORCH_MODES = {Image.NEAREST: "nearest", Image.BILINEAR: "bilinear", Image.BICUBIC: "bicubic"}


class ResizeTransform(Transform):
    """Resize (h, w) to (new_h, new_w): uint8 arrays with Pillow (antialiased), others with torch (not)."""

    def __init__(self, h: int, w: int, new_h: int, new_w: int, interp: int | None = None):
        super().__init__()
        self.h, self.w, self.new_h, self.new_w = h, w, new_h, new_w
        self.interp = Image.BILINEAR if interp is None else interp

    def apply_image(self, img: np.ndarray, interp: int | None = None) -> np.ndarray:
        """Resize an array of shape (h, w) or (h, w, channels); ``interp`` is one of Pillow's filters."""
        assert img.shape[:2] == (self.h, self.w), f"made for {(self.h, self.w)}, got an array {img.shape}"
        interp = self.interp if interp is None else interp
        if img.dtype == np.uint8:
            one_channel = img.ndim == 3 and img.shape[2] == 1
            resized = Image.fromarray(img[:, :, 0] if one_channel else img)
            resized = np.asarray(resized.resize((self.new_w, self.new_h), interp))
            return resized[:, :, None] if one_channel else resized
        tensor = torch.from_numpy(np.ascontiguousarray(img))
        tensor = tensor.reshape(self.h, self.w, -1).permute(2, 0, 1)[None]  # 1, C, h, w
        mode = _TORCH_MODES[interp]
        align = None if mode == "nearest" else False
        tensor = F.interpolate(tensor, (self.new_h, self.new_w), mode=mode, align_corners=align)
        return tensor[0].permute(1, 2, 0).reshape(self.new_h, self.new_w, *img.shape[2:]).numpy()

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        coords[:, 0] = coords[:, 0] * (self.new_w * 1.0 / self.w)
        coords[:, 1] = coords[:, 1] * (self.new_h * 1.0 / self.h)
        return coords

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        return self.apply_image(segmentation, interp=Image.NEAREST)

    def inverse(self) -> "ResizeTransform":
        return ResizeTransform(self.new_h, self.new_w, self.h, self.w, self.interp)


class AugInput:
    """The input that augmentations read and change in place.

    Attributes:
        image: (H, W) or (H, W, C), uint8 in [0, 255] or floating point.
        boxes: (N, 4) float, absolute x0, y0, x1, y1; or None.
        sem_seg: (H, W) uint8 labels; or None.
    """

    def __init__(self, image: np.ndarray, *, boxes: np.ndarray | None = None, sem_seg: np.ndarray | None = None):
        assert isinstance(image, np.ndarray), f"an image must be a numpy array, got {type(image)}"
        assert image.ndim in (2, 3), f"an image must have 2 or 3 dimensions, got shape {image.shape}"
        self.image = image
        self.boxes = boxes
        self.sem_seg = sem_seg

    def transform(self, tfm: Transform) -> None:
        self.image = tfm.apply_image(self.image)
        if self.boxes is not None:
            self.boxes = tfm.apply_box(self.boxes)
        if self.sem_seg is not None:
            self.sem_seg = tfm.apply_segmentation(self.sem_seg)


class Augmentation:
    """A policy: ``get_transform`` chooses a transform, and a call applies it in place.

    The names of ``get_transform``'s parameters name the attributes of the input that it gets (``image``,
    ``boxes``, ``sem_seg``, or others of a subclass of :class:`AugInput`). A single parameter always
    gets the image. ``input_args`` overrides that.
    """

    input_args: tuple[str, ...] | None = None

    def get_transform(self, *args) -> Transform:
        raise TypeError(f"{type(self).__name__} must define get_transform")

    def _arguments(self, aug_input) -> list:
        if self.input_args is None:
            parameters = inspect.signature(self.get_transform).parameters.values()
            if len(parameters) != 1 and any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters):
                raise TypeError(f"{type(self).__name__}.get_transform must name its arguments; override __call__")
            self.input_args = ("image",) if len(parameters) == 1 else tuple(p.name for p in parameters)
        return [getattr(aug_input, name) for name in self.input_args]

    def __call__(self, aug_input) -> Transform:
        """Choose a transform, apply it to ``aug_input`` in place, and return it."""
        tfm = self.get_transform(*self._arguments(aug_input))
        assert isinstance(tfm, Transform), f"{type(self).__name__} chose {type(tfm)}, which is no Transform"
        aug_input.transform(tfm)
        return tfm

    def __repr__(self) -> str:
        names = [name for name in inspect.signature(type(self).__init__).parameters if hasattr(self, name)]
        return f"{type(self).__name__}({', '.join(f'{name}={getattr(self, name)!r}' for name in names)})"


class _Fixed(Augmentation):
    """A policy that always chooses the same transform."""

    def __init__(self, tfm: Transform):
        self.tfm = tfm

    def get_transform(self, image: np.ndarray) -> Transform:
        return self.tfm


def _as_augmentation(x: "Augmentation | Transform") -> Augmentation:
    assert isinstance(x, (Augmentation, Transform)), f"{type(x)} is neither an Augmentation nor a Transform"
    return x if isinstance(x, Augmentation) else _Fixed(x)


class AugmentationList(Augmentation):
    """Apply several, one after the other."""

    def __init__(self, augs: Sequence):
        self.augs = [_as_augmentation(x) for x in augs]

    def __call__(self, aug_input) -> TransformList:
        return TransformList([aug(aug_input) for aug in self.augs])


class RandomFlip(Augmentation):
    """Mirror with probability ``prob``: left to right, or (``vertical``) top to bottom."""

    def __init__(self, prob: float = 0.5, *, horizontal: bool = True, vertical: bool = False):
        if horizontal == vertical:
            raise ValueError("RandomFlip needs exactly one of horizontal and vertical; use two for both")
        self.prob, self.horizontal, self.vertical = prob, horizontal, vertical

    def get_transform(self, image: np.ndarray) -> Transform:
        if np.random.uniform() >= self.prob:
            return NoOpTransform()
        h, w = image.shape[:2]
        return HFlipTransform(w) if self.horizontal else VFlipTransform(h)


class ResizeShortestEdge(Augmentation):
    """Resize so that the shorter side has a drawn length, the longer one at most ``max_size``.

    ``short_edge_length``: lengths to choose from (``sample_style`` "choice"), or the smallest and the
    largest ("range", both included). A drawn 0 keeps the size.
    """

    def __init__(
        self,
        short_edge_length: "int | Sequence[int]",
        max_size: int = sys.maxsize,
        sample_style: str = "range",
        interp: int = Image.BILINEAR,
    ):
        assert sample_style in ("range", "choice"), f"sample_style is range or choice, got {sample_style!r}"
        if isinstance(short_edge_length, int):
            short_edge_length = (short_edge_length, short_edge_length)
        self.is_range = sample_style == "range"
        if self.is_range:
            assert len(short_edge_length) == 2, f"a range has two ends, got {short_edge_length}"
        self.short_edge_length, self.max_size = short_edge_length, max_size
        self.sample_style, self.interp = sample_style, interp

    def get_transform(self, image: np.ndarray) -> Transform:
        if self.is_range:
            size = np.random.randint(self.short_edge_length[0], self.short_edge_length[1] + 1)
        else:
            size = np.random.choice(self.short_edge_length)
        if size == 0:
            return NoOpTransform()
        h, w = image.shape[:2]
        return ResizeTransform(h, w, *self.get_output_shape(h, w, size, self.max_size), self.interp)

    @staticmethod
    def get_output_shape(oldh: int, oldw: int, short_edge_length: int, max_size: int) -> tuple[int, int]:
        """Return (height, width) after the resize, rounded half up."""
        scale = short_edge_length * 1.0 / min(oldh, oldw)
        newh, neww = scale * oldh, scale * oldw
        # The shorter side is exact: scale * min(h, w) may fall short of it by a rounding error.
        if oldh < oldw:
            newh = short_edge_length * 1.0
        else:
            neww = short_edge_length * 1.0
        if max(newh, neww) > max_size:
            scale = max_size * 1.0 / max(newh, neww)
            newh, neww = newh * scale, neww * scale
        return int(newh + 0.5), int(neww + 0.5)


class RandomCrop(Augmentation):
    """Cut out a rectangle at a random place.

    ``crop_type`` and ``crop_size``: "relative" (fractions of height and width), "relative_range" (the
    smallest fractions, the largest being 1), "absolute" (height, width in pixels, or less if the image
    is smaller), "absolute_range" (smallest and largest side in pixels, drawn for height, then for width).
    """

    def __init__(self, crop_type: str, crop_size: Sequence[float]):
        types = ("relative", "relative_range", "absolute", "absolute_range")
        assert crop_type in types, f"crop_type is one of {types}, got {crop_type!r}"
        assert crop_type != "absolute_range" or crop_size[0] <= crop_size[1], f"an empty range: {crop_size}"
        self.crop_type, self.crop_size = crop_type, crop_size

    def get_transform(self, image: np.ndarray) -> Transform:
        h, w = image.shape[:2]
        crop_h, crop_w = self.get_crop_size((h, w))
        assert h >= crop_h and w >= crop_w, f"crop {crop_h}x{crop_w} is larger than the image {h}x{w}: {self}"
        y0 = np.random.randint(h - crop_h + 1)
        x0 = np.random.randint(w - crop_w + 1)
        return CropTransform(x0, y0, crop_w, crop_h)

    def get_crop_size(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """Return (height, width) of a crop of an image of size (height, width), in pixels."""
        h, w = image_size
        if self.crop_type == "absolute":
            return min(self.crop_size[0], h), min(self.crop_size[1], w)
        if self.crop_type == "absolute_range":
            low, high = self.crop_size
            crop_h = np.random.randint(min(h, low), min(h, high) + 1)
            return crop_h, np.random.randint(min(w, low), min(w, high) + 1)
        fractions = self.crop_size
        if self.crop_type == "relative_range":
            smallest = np.asarray(self.crop_size, dtype=np.float32)
            fractions = smallest + np.random.rand(2) * (1 - smallest)
        return int(h * fractions[0] + 0.5), int(w * fractions[1] + 0.5)

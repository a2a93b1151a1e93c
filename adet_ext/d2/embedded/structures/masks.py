"""Masks of the instances of one image, as pixels or as polygons.

N instances, H and W the image's height and width.
"""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
import torch
from torch import Tensor
from torchvision.ops import masks_to_boxes, roi_align

from .boxes import Boxes

_PIXELS_AT_ONCE = 2**24


def polygons_to_bitmask(polygons: list[np.ndarray], height: int, width: int) -> np.ndarray:
    """Return the union of polygons [x0, y0, x1, y1, ...] as bool (height, width), by COCO's rules."""
    if len(polygons) == 0:  # COCO's code does not support an empty list
        return np.zeros((height, width), dtype=bool)
    return mask_util.decode(mask_util.merge(mask_util.frPyObjects(polygons, height, width))).astype(bool)


class BitMasks:
    """Masks as a boolean tensor ``tensor`` (N, H, W); ``image_size`` is (H, W)."""

    def __init__(self, tensor: Tensor | np.ndarray):
        if isinstance(tensor, Tensor):
            tensor = tensor.to(torch.bool)
        else:
            tensor = torch.as_tensor(tensor, dtype=torch.bool, device="cpu")
        if tensor.dim() != 3:
            raise AssertionError(f"bit masks must be N x H x W; got {tuple(tensor.shape)}")
        self.image_size = tensor.shape[1:]
        self.tensor = tensor

    @property
    def device(self) -> torch.device:
        return self.tensor.device

    def to(self, *args: Any, **kwargs: Any) -> "BitMasks":
        return BitMasks(self.tensor.to(*args, **kwargs))

    def nonempty(self) -> Tensor:
        """Return bool (N,): whether at least one pixel is set."""
        return self.tensor.flatten(1).any(dim=1)

    @staticmethod
    def from_polygon_masks(
        polygon_masks: "PolygonMasks | list[list[np.ndarray]]", height: int, width: int
    ) -> "BitMasks":
        """Rasterize polygons onto an image of the given size."""
        instances = polygon_masks.polygons if isinstance(polygon_masks, PolygonMasks) else polygon_masks
        masks = [torch.from_numpy(polygons_to_bitmask(one, height, width)) for one in instances]
        return BitMasks(torch.stack(masks) if masks else torch.empty(0, height, width, dtype=torch.bool))

    def crop_and_resize(self, boxes: Tensor, mask_size: int) -> Tensor:
        """Each mask within its box of ``boxes`` (N, 4), as booleans (N, mask_size, mask_size)."""
        if len(boxes) != len(self):
            raise AssertionError(f"{len(boxes)} boxes for {len(self)} masks")
        if len(self) == 0:
            return self.tensor.new_empty(0, mask_size, mask_size)
        cropped = []
        # As floats, all masks of a large image at once would take four times their memory.
        step = max(1, _PIXELS_AT_ONCE // max(1, self.tensor[0].numel()))
        boxes = boxes.to(self.device, torch.float32)
        for masks, rois in zip(self.tensor.split(step), boxes.split(step), strict=True):
            index = torch.arange(len(masks), device=self.device)[:, None]
            rois = torch.cat([index.to(rois.dtype), rois], dim=1)  # step, 5
            masks = masks[:, None].to(torch.float32)  # step, 1, H, W
            cropped.append(roi_align(masks, rois, (mask_size, mask_size), 1.0, 0, True)[:, 0] >= 0.5)
        return torch.cat(cropped)

    def get_bounding_boxes(self) -> Boxes:
        """Return the tightest box around each mask, on the CPU; zeros for an empty mask."""
        boxes, kept = torch.zeros(len(self), 4), self.nonempty()
        # torchvision gives the last pixel inside, and does not support empty masks.
        boxes[kept.cpu()] = masks_to_boxes(self.tensor[kept]).cpu() + torch.tensor([0.0, 0.0, 1.0, 1.0])
        return Boxes(boxes)

    @staticmethod
    def cat(bitmasks_list: Sequence["BitMasks"]) -> "BitMasks":
        return BitMasks(torch.cat([masks.tensor for masks in bitmasks_list], dim=0))

    def __getitem__(self, item: int | slice | Tensor) -> "BitMasks":
        chosen = self.tensor[item]
        return BitMasks(chosen[None] if isinstance(item, int) else chosen)

    def __iter__(self) -> Iterator[Tensor]:
        yield from self.tensor

    def __len__(self) -> int:
        return self.tensor.shape[0]

    def __repr__(self) -> str:
        return f"BitMasks(num_instances={len(self)})"


class PolygonMasks:
    """Masks as polygons: ``polygons[i]`` lists the float64 arrays [x0, y0, x1, y1, ...] of instance i.

    Polygons stay on the CPU. Fewer than three points, or an odd number of coordinates, raise ``ValueError``.
    """

    def __init__(self, polygons: list[list[np.ndarray | Tensor | Sequence[float]]]):
        if not isinstance(polygons, list):
            raise ValueError(f"polygons must be a list (instances) of lists (parts); got {type(polygons).__name__}")
        self.polygons = [self._check(index, parts) for index, parts in enumerate(polygons)]

    @staticmethod
    def _check(index: int, parts: list) -> list[np.ndarray]:
        if not isinstance(parts, list):
            raise ValueError(f"the polygons of instance {index} are a {type(parts).__name__}, not a list")
        arrays = [part.cpu().numpy() if isinstance(part, Tensor) else np.asarray(part) for part in parts]
        for array in arrays:
            if len(array) % 2 or len(array) < 6:
                raise ValueError(
                    f"instance {index} has a polygon of {len(array)} numbers; a polygon has at least three "
                    "points of two each"
                )
        return [array.astype("float64") for array in arrays]

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    def to(self, *args: Any, **kwargs: Any) -> "PolygonMasks":
        return self

    def nonempty(self) -> Tensor:
        """Return bool (N,): whether there is at least one polygon."""
        return torch.tensor([len(parts) > 0 for parts in self.polygons], dtype=torch.bool)

    def get_bounding_boxes(self) -> Boxes:
        """Return the tightest box around each instance's points; (inf, inf, 0, 0) without points."""
        boxes = torch.zeros(len(self), 4)
        for box, parts in zip(boxes, self.polygons, strict=True):
            points = np.concatenate([np.empty(0), *parts]).reshape(-1, 2)
            box[:2] = torch.from_numpy(points.min(axis=0, initial=np.inf))
            box[2:] = torch.from_numpy(points.max(axis=0, initial=0))
        return Boxes(boxes)

    def crop_and_resize(self, boxes: Tensor, mask_size: int) -> Tensor:
        """Each instance within its box of ``boxes`` (N, 4), as booleans (N, mask_size, mask_size)."""
        if len(boxes) != len(self):
            raise AssertionError(f"{len(boxes)} boxes for {len(self)} masks")
        masks = [
            torch.from_numpy(_rasterize_within(parts, box, mask_size))
            for parts, box in zip(self.polygons, boxes.cpu().numpy(), strict=True)
        ]
        empty = torch.empty(0, mask_size, mask_size, dtype=torch.bool)
        return (torch.stack(masks) if masks else empty).to(boxes.device)

    def area(self) -> Tensor:
        """Return the areas (N,) in square pixels; those of an instance's polygons are added up."""
        return torch.tensor([sum(_shoelace(part[0::2], part[1::2]) for part in parts) for parts in self.polygons])

    @staticmethod
    def cat(polymasks_list: Sequence["PolygonMasks"]) -> "PolygonMasks":
        return PolygonMasks(list(itertools.chain.from_iterable(masks.polygons for masks in polymasks_list)))

    def __getitem__(self, item: int | slice | list[int] | np.ndarray | Tensor) -> "PolygonMasks":
        if isinstance(item, slice):
            return PolygonMasks(self.polygons[item])
        if isinstance(item, int):
            item = [item]
        index = np.asarray(item.cpu() if isinstance(item, Tensor) else item)
        if index.dtype == bool:
            if index.shape != (len(self),):
                raise AssertionError(f"a selection of shape {index.shape} for {len(self)} instances")
            index = np.flatnonzero(index)
        elif index.size and not np.issubdtype(index.dtype, np.integer):
            raise ValueError(f"instances must be selected by integers or booleans; got {index.dtype}")
        for i in index.tolist():
            if not -len(self) <= i < len(self):
                raise IndexError(f"there are {len(self)} instances, from 0 on; got number {i}")
        return PolygonMasks([self.polygons[i] for i in index.tolist()])

    def __iter__(self) -> Iterator[list[np.ndarray]]:
        return iter(self.polygons)

    def __len__(self) -> int:
        return len(self.polygons)

    def __repr__(self) -> str:
        return f"PolygonMasks(num_instances={len(self)})"


def _shoelace(x: np.ndarray, y: np.ndarray) -> float:
    return 0.5 * np.abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1)))


def _rasterize_within(polygons: list[np.ndarray], box: np.ndarray, mask_size: int) -> np.ndarray:
    width, height = box[2] - box[0], box[3] - box[1]
    # Boxes count as at least a tenth of a pixel wide, which bounds the enlargement of polygons.
    scale_x, scale_y = mask_size / max(width, 0.1), mask_size / max(height, 0.1)
    moved = []
    for polygon in polygons:
        part = np.empty_like(polygon)
        part[0::2] = (polygon[0::2] - box[0]) * scale_x
        part[1::2] = (polygon[1::2] - box[1]) * scale_y
        moved.append(part)
    return polygons_to_bitmask(moved, mask_size, mask_size)

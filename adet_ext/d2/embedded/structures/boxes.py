"""Axis-aligned boxes.

N, M number of boxes; coordinates are pixels, continuous, the first pixel spanning 0 to 1.
"""

from collections.abc import Iterator, Sequence
from enum import IntEnum, unique
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import box_area, box_convert, clip_boxes_to_image


@unique
class BoxMode(IntEnum):
    """The meaning of the four numbers of a box."""

    XYXY_ABS = 0  # two corners
    XYWH_ABS = 1  # corner and size, as COCO's files have it
    XYXY_REL = 2  # for completeness; neither engine converts relative boxes
    XYWH_REL = 3
    XYWHA_ABS = 4  # rotated; Detectron2 only

    @staticmethod
    def convert(box: Any, from_mode: "BoxMode", to_mode: "BoxMode") -> Any:
        """Convert one box (list or tuple of 4) or N of them (array or tensor, N x 4); the type is kept."""
        if from_mode == to_mode:
            return box
        if not {from_mode, to_mode} <= _FORMATS.keys():
            raise NotImplementedError(
                f"boxes convert between XYXY_ABS and XYWH_ABS here, not from {BoxMode(from_mode).name} to "
                f"{BoxMode(to_mode).name}; Detectron2 itself has rotated boxes"
            )
        if isinstance(box, list | tuple) and len(box) != 4:
            raise AssertionError(f"a box has four numbers, this one has {len(box)}: {box}")
        rows = box_convert(torch.as_tensor(box), _FORMATS[from_mode], _FORMATS[to_mode])
        if isinstance(box, list | tuple):
            return type(box)(rows.tolist())
        return rows.numpy() if isinstance(box, np.ndarray) else rows


_FORMATS = {BoxMode.XYXY_ABS: "xyxy", BoxMode.XYWH_ABS: "xywh"}


class Boxes:
    """N boxes as a float32 ``tensor`` (N, 4) of (x0, y0, x1, y1); indexes and moves like a tensor."""

    def __init__(self, tensor: Tensor | np.ndarray | Sequence):
        if not isinstance(tensor, Tensor):
            tensor = torch.as_tensor(tensor, dtype=torch.float32, device="cpu")
        tensor = tensor.to(torch.float32)
        if tensor.numel() == 0:
            tensor = tensor.reshape(-1, 4)
        if tensor.dim() != 2 or tensor.shape[1] != 4:
            raise AssertionError(f"boxes must be N x 4; got {tuple(tensor.shape)}")
        self.tensor = tensor

    @property
    def device(self) -> torch.device:
        return self.tensor.device

    def clone(self) -> "Boxes":
        return Boxes(self.tensor.clone())

    def to(self, device: torch.device | str) -> "Boxes":
        """Return the boxes on another device. The type is float32."""
        return Boxes(self.tensor.to(device=device))

    def area(self) -> Tensor:
        """Return the areas (N,) in square pixels."""
        return box_area(self.tensor)

    def clip(self, box_size: tuple[int, int]) -> None:
        """Clip the boxes, in place, to an image of ``box_size`` (height, width)."""
        # Not "if" and "raise": torch.compile keeps an assert in its graph.
        assert torch.isfinite(self.tensor).all(), "boxes contain NaN or infinity, so they cannot be clipped"
        self.tensor = clip_boxes_to_image(self.tensor, box_size)

    def nonempty(self, threshold: float = 0.0) -> Tensor:
        """Return bool (N,): whether both sides are longer than ``threshold`` pixels."""
        sides = self.tensor[:, 2:] - self.tensor[:, :2]
        return (sides > threshold).all(dim=1)

    def scale(self, scale_x: float, scale_y: float) -> None:
        """Multiply the coordinates, in place."""
        self.tensor[:, 0::2] *= scale_x
        self.tensor[:, 1::2] *= scale_y

    @classmethod
    def cat(cls, boxes_list: Sequence["Boxes"]) -> "Boxes":
        """Return all boxes of the list in one object, which does not share memory with them."""
        if len(boxes_list) == 0:
            return cls(torch.empty(0))
        return cls(torch.cat([boxes.tensor for boxes in boxes_list], dim=0))

    def __getitem__(self, item: int | slice | Tensor) -> "Boxes":
        rows = self.tensor[item]
        if isinstance(item, int):
            rows = rows[None]
        if rows.dim() != 2:
            raise AssertionError(f"indexing boxes with {item} gives {rows.dim()} dimensions instead of 2")
        return Boxes(rows)

    def __len__(self) -> int:
        return self.tensor.shape[0]

    def __iter__(self) -> Iterator[Tensor]:
        yield from self.tensor

    def __repr__(self) -> str:
        return f"Boxes({self.tensor})"

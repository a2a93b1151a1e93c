"""Arguments that the blend operators share: what fits, and whether the compiled operators take it."""

from collections.abc import Sequence

import torch

from .blend_native import has_kernel
from .floats import FLOATS

__all__ = ["check_boxes", "check_like", "check_size", "fuses"]


def check_floating(name: str, tensor: torch.Tensor) -> None:
    if not isinstance(tensor, torch.Tensor):
        raise TypeError(f"{name} is {type(tensor).__name__}; it takes a tensor")
    if tensor.dtype not in FLOATS:
        raise TypeError(f"{name} is {tensor.dtype}; it takes float32, float64, float16 or bfloat16")


def check_size(name: str, tensor: torch.Tensor, axis: int, size: int, why: str) -> None:
    if tensor.shape[axis] != size:
        raise ValueError(f"{name} has size {tensor.shape[axis]} on dimension {axis}; it takes {size}, {why}")


def check_boxes(bases: torch.Tensor, boxes: torch.Tensor, image: torch.Tensor, size: int) -> None:
    """(N, C, H, W) bases with (D, 4) boxes of (D,) images, to be cropped to ``size``."""
    check_floating("bases", bases)
    if bases.dim() != 4 or bases.shape[1] == 0:
        raise ValueError(f"bases are {tuple(bases.shape)}; they take (N, K, H, W) with K > 0")
    if not isinstance(boxes, torch.Tensor) or boxes.dim() != 2 or boxes.shape[1] != 4:
        raise ValueError(f"boxes are {tuple(getattr(boxes, 'shape', ()))}; they take (D, 4)")
    if len(boxes) and bases.numel() == 0:
        raise ValueError(f"bases are {tuple(bases.shape)}; there are no cells to crop")
    if image.shape != boxes.shape[:1]:
        raise ValueError(f"image has shape {tuple(image.shape)}; it takes one number a box, ({len(boxes)},)")
    for name, tensor in (("boxes", boxes), ("image", image)):
        if tensor.device != bases.device:
            raise ValueError(f"{name} lies on {tensor.device}, but bases on {bases.device}")
    if not 1 <= size <= 4096:
        raise ValueError(f"size is {size}; it can be 1 to 4096")


def check_like(name: str, tensor: torch.Tensor, bases: torch.Tensor, shape: Sequence[int | None]) -> None:
    """A floating tensor on the device of the bases with that shape; None: any length."""
    check_floating(name, tensor)
    fits = tensor.dim() == len(shape) and all(b is None or a == b for a, b in zip(tensor.shape, shape))
    if not fits:
        wanted = ", ".join("any" if n is None else str(n) for n in shape)
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}; it takes ({wanted})")
    if tensor.device != bases.device:
        raise ValueError(f"{name} lies on {tensor.device}, but bases on {bases.device}")


def fuses(name: str, bases: torch.Tensor, sampling_ratio: int, pooler_type: str) -> bool:
    """Whether the compiled operator serves these bases and this way of cropping."""
    return sampling_ratio == 1 and pooler_type in ("ROIAlign", "ROIAlignV2") and has_kernel(name, bases)

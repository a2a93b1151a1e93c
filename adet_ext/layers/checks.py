"""Check arguments, with the rules and messages of csrc/common.h.

The references and the shape functions of the compiled operators use these checks, so that tensors without data are
refused as the kernels refuse others. A wrong type raises TypeError, all else ValueError.
"""

from collections.abc import Sequence

import torch

from .floats import FLOATS, sum_dtype

__all__ = [
    "check_boxes",
    "check_device",
    "check_floating",
    "check_index",
    "check_like",
    "check_number",
    "check_option",
    "check_range",
    "check_sequence",
    "check_shape",
    "check_type",
    "dtype_name",
    "shape_text",
]


def shape_text(shape: Sequence[int | str]) -> str:
    return f"({', '.join(str(side) for side in shape)}{',' if len(shape) == 1 else ''})"


def dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def check_tensor(t: torch.Tensor, name: str) -> None:
    if not isinstance(t, torch.Tensor):
        raise TypeError(f"{name} must be a tensor; got {type(t).__name__}")
    if t.layout != torch.strided:
        raise ValueError(f"{name} must be a dense tensor; got {t.layout}")


def check_shape(t: torch.Tensor, name: str, sides: Sequence[int | str]) -> None:
    """Raise unless ``t`` has these sides. A letter means any number; equal letters, equal numbers."""
    check_tensor(t, name)
    fits = t.dim() == len(sides)
    if fits:
        for side, size in zip(sides, t.shape):
            wanted = t.shape[sides.index(side)] if isinstance(side, str) else side
            if size != wanted:
                fits = False
    if not fits:
        raise ValueError(f"{name} must have shape {shape_text(sides)}; got {shape_text(t.shape)}")


def check_type(t: torch.Tensor, name: str, dtype: torch.dtype) -> None:
    check_tensor(t, name)
    if t.dtype != dtype:
        raise TypeError(f"{name} must be {dtype_name(dtype)}; got {dtype_name(t.dtype)}")


def check_floating(t: torch.Tensor, name: str) -> None:
    check_tensor(t, name)
    if t.dtype not in FLOATS:
        raise TypeError(f"{name} must be float32, float64, float16 or bfloat16; got {dtype_name(t.dtype)}")


def check_device(t: torch.Tensor, name: str, other: torch.Tensor) -> None:
    if t.device != other.device:
        raise ValueError(f"{name} must be on {other.device}; got {t.device}")


def check_like(t: torch.Tensor, name: str, other: torch.Tensor) -> None:
    """Raise unless ``t`` has the type and the device of ``other``."""
    check_type(t, name, other.dtype)
    check_device(t, name, other)


def check_range(value: int, name: str, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, torch.SymInt)):
        raise TypeError(f"{name} must be an integer; got {value!r}")
    if not low <= value <= high:
        raise ValueError(f"{name} must be {low} to {high}; got {value}")


def check_number(value: float, name: str, *, finite: bool = True) -> None:
    """Raise unless ``value`` is a number above 0 and not NaN; with ``finite`` also unless it is finite in float32."""
    if isinstance(value, bool) or not isinstance(value, (int, float, torch.SymFloat, torch.SymInt)):
        raise TypeError(f"{name} must be a number; got {value!r}")
    if not value > 0 or (finite and not value < 3e38):
        raise ValueError(f"{name} must be a {'finite ' if finite else ''}number above 0; got {value}")


def check_option(value: str, name: str, options: Sequence[str]) -> None:
    if value not in options:
        raise ValueError(f"{name} must be {', '.join(options[:-1])} or {options[-1]}; got {value!r}")


def check_sequence(value: Sequence, name: str) -> None:
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise TypeError(f"{name} must be a list or a tuple; got {type(value).__name__}")


def check_boxes(boxes: torch.Tensor, maps: torch.Tensor, *, exact: bool) -> None:
    """Raise unless ``boxes`` are (B, 4), on the device of ``maps``; with ``exact``, also of the type of their sums."""
    check_shape(boxes, "boxes", ("B", 4))
    if exact:
        check_type(boxes, "boxes", sum_dtype(maps.dtype))
    else:
        check_floating(boxes, "boxes")
    check_device(boxes, "boxes", maps)


def check_index(index: torch.Tensor, name: str, boxes: torch.Tensor) -> None:
    """Raise unless ``index`` has an int64 number for each of the boxes: (B,)."""
    check_shape(index, name, (boxes.shape[0],))
    check_type(index, name, torch.int64)
    check_device(index, name, boxes)

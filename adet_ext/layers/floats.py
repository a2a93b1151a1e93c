"""The floating-point types of the operators."""

import torch

__all__ = ["FLOATS", "autocasts", "sum_dtype"]

FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def sum_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the type of sums and boxes."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def autocasts(tensor: torch.Tensor) -> bool:
    """Return whether autocast is on for the device of ``tensor``. It does not support meta tensors."""
    return tensor.device.type != "meta" and torch.is_autocast_enabled(tensor.device.type)

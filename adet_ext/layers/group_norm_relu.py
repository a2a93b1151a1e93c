"""Group normalization (Wu and He, 2018) and ReLU of all levels of a head, in two launches on a GPU.

G groups of channels; other letters as in :mod:`adet_ext.layers`.

PyTorch takes several launches a level for the norm and one more for the ReLU. The compiled operator is for inference on
GPUs: it has no gradient, and CPUs do not wait for launches.
"""

from collections.abc import Sequence

import torch

from .checks import check_device, check_floating, check_number, check_range, check_sequence, check_shape, check_type
from .extension import native_operators, serves

__all__ = ["group_norm_relu", "group_norm_relu_reference", "has_kernel"]

_MAX_MAPS = 16


def group_norm_relu(
    maps: Sequence[torch.Tensor], weight: torch.Tensor, bias: torch.Tensor, *, groups: int, eps: float = 1e-5
) -> list[torch.Tensor]:
    """Normalize each map's channels in groups, over the locations of an image, and rectify.

    Args:
        maps: (N, C, H_l, W_l) for each of at most 16 levels, of one type and device.
        weight, bias: (C,), of the type of the maps.
        groups: G, divides C.
        eps: is added to the variance.

    Returns:
        a map for each, channels-last from the compiled operator.

    Raises:
        TypeError: an argument is not a floating-point tensor, or not of the type of the maps.
        ValueError: a shape does not fit, or a tensor is on another device.
    """
    _check(maps, weight, bias, groups, eps)
    if has_kernel(maps, weight, bias):
        return torch.ops.adet_ext.group_norm_relu(list(maps), weight, bias, groups, eps)
    return group_norm_relu_reference(maps, weight, bias, groups=groups, eps=eps)


def group_norm_relu_reference(
    maps: Sequence[torch.Tensor], weight: torch.Tensor, bias: torch.Tensor, *, groups: int, eps: float = 1e-5
) -> list[torch.Tensor]:
    """Compute :func:`group_norm_relu` in plain PyTorch, which refuses maps without locations."""
    return [torch.group_norm(x, groups, weight, bias, eps).relu_() if x.numel() else x.clone() for x in maps]


def has_kernel(maps: Sequence[torch.Tensor], weight: torch.Tensor, bias: torch.Tensor) -> bool:
    """Return whether the compiled operator serves for these tensors, whose channels must be innermost in memory.

    A compiler fuses the norm and the ReLU itself.
    """
    return (
        0 < len(maps) <= _MAX_MAPS
        and serves("group_norm_relu", maps[0])
        and all(x.stride(1) == 1 and x.dtype == weight.dtype == bias.dtype for x in maps)
        and not torch.compiler.is_compiling()
        and not (torch.is_grad_enabled() and any(t.requires_grad for t in (*maps, weight, bias)))
    )


def _check(maps, weight, bias, groups, eps) -> None:
    check_sequence(maps, "maps")
    check_range(len(maps), "the number of maps", 1, _MAX_MAPS)
    for i, x in enumerate(maps):
        check_floating(x, f"maps[{i}]")
        check_shape(x, f"maps[{i}]", ("N", "C", "H", "W") if i == 0 else (*maps[0].shape[:2], "H", "W"))
        check_type(x, f"maps[{i}]", maps[0].dtype)
        check_device(x, f"maps[{i}]", maps[0])
    channels = maps[0].shape[1]
    for name, tensor in (("weight", weight), ("bias", bias)):
        check_shape(tensor, name, (channels,))
        check_type(tensor, name, maps[0].dtype)
        check_device(tensor, name, maps[0])
    check_range(groups, "groups", 1, channels)
    if channels % groups:
        raise ValueError(f"groups must divide the {channels} channels; got {groups}")
    check_number(eps, "eps")


def _fake(maps, weight, bias, groups, eps):
    _check(maps, weight, bias, groups, eps)
    return [torch.empty_like(x, memory_format=torch.channels_last) for x in maps]


if "group_norm_relu" in native_operators():
    torch.library.register_fake("adet_ext::group_norm_relu", _fake)

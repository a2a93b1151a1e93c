"""Cases of the group norm with its ReLU, of the five levels of a head at 800 x 1088. CPUs have no kernel of it."""

from collections.abc import Sequence

import torch

from ...layers.group_norm_relu import group_norm_relu, group_norm_relu_reference
from .case import PYRAMID, Case, Contest

__all__ = ["GROUPS", "cases", "make_inputs"]

GROUPS = 32
_CHANNELS = 256


def cases() -> list[Case]:
    """Against PyTorch's norm and ReLU, level by level."""
    types = (torch.float32, torch.float16, torch.bfloat16)
    baseline = "group norm, then ReLU, level by level"
    return [Case("group_norm_relu", "1x256, P3-P7 of 800x1088", baseline, _make, {}, types, ("cuda",))]


def make_inputs(
    levels: Sequence[tuple[int, int]], device: torch.device, dtype: torch.dtype
) -> tuple[list[torch.Tensor], torch.Tensor, torch.Tensor]:
    """Return random maps (1, 256, H, W), channels-last, with weight and bias (256,)."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).to(device, dtype)

    maps = [random(1, _CHANNELS, *size).contiguous(memory_format=torch.channels_last) for size in levels]
    return maps, random(_CHANNELS), random(_CHANNELS)


def _make(device: torch.device, dtype: torch.dtype) -> Contest:
    maps, weight, bias = make_inputs(PYRAMID, device, dtype)
    moved = 2 * sum(x.numel() for x in maps) * maps[0].element_size()
    return Contest(
        lambda: tuple(group_norm_relu(maps, weight, bias, groups=GROUPS)),
        lambda: tuple(group_norm_relu_reference(maps, weight, bias, groups=GROUPS)),
        moved,
    )

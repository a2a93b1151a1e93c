"""Attention from one branch to the other, by channels.

N images, C channels of what is read, F channels of what is changed.
"""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from .choices import Choices

__all__ = ["BranchAttention", "change", "joined_mean", "upsampled_mean"]


def upsampled_mean(x: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Return the mean over all pixels of ``x`` upsampled bilinearly (corners aligned) to ``size``, without doing so.

    Bilinear upsampling is linear, and its weights are products: (N, C, H, W) -> (N, C).
    """
    rows, columns = (_weights(n, m, x) for n, m in zip(x.shape[-2:], size))
    return (x * (rows[:, None] * columns)).sum(dim=(2, 3))


def _weights(length: int, target: int, like: torch.Tensor) -> torch.Tensor:
    unit = torch.eye(length, dtype=torch.float32, device=like.device)[None]
    return F.interpolate(unit, size=target, mode="linear", align_corners=True)[0].mean(dim=1).to(like.dtype)


def joined_mean(maps: Sequence[torch.Tensor], size: tuple[int, int]) -> torch.Tensor:
    """Return the global mean of maps that are upsampled to ``size`` and concatenated: (N, sum of their channels)."""
    return torch.cat([upsampled_mean(x, size) for x in maps], dim=1)


def change(x: torch.Tensor, attention: torch.Tensor) -> torch.Tensor:
    """Return f + a f for maps f (N, F, H, W) and attention a (N, F)."""
    return x * (1 + attention[:, :, None, None])


class BranchAttention(nn.Module):
    """One searched module for each level: (N, C) -> (N, F) each.

    A module is linear to F / r channels, ReLU, linear to F, and 1 minus the sigmoid. The reduction r is searched.
    """

    def __init__(self, choices: Sequence[Sequence[str]], inputs: int, outputs: int):
        super().__init__()

        def make(reduction: str) -> nn.Module:
            middle = max(outputs // int(reduction), 1)
            return nn.Sequential(nn.Linear(inputs, middle), nn.ReLU(), nn.Linear(middle, outputs), nn.Sigmoid())

        self.levels = nn.ModuleList([Choices(names, make) for names in choices])

    def forward(self, means: torch.Tensor) -> list[torch.Tensor]:
        return [1 - level(means) for level in self.levels]

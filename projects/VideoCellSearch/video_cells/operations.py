"""The unary operations: those of the dynamic cell (thesis Table 6.1), and those of the static decoder's cells.

N images, C channels, H x W a map; every operation keeps N x C x H x W. Norms are batch norms. What the tables do not
say of an operation's make-up is as in nas-segm-pytorch, the public code of the static network (thesis reference 53).
"""

from collections.abc import Callable

import torch
from torch import nn

from adet_ext.layers.cells import deformable, plain, separable

__all__ = ["CELL_OPERATIONS", "DECODER_OPERATIONS", "GlobalPool", "build_operation", "conv_norm_relu"]

make_norm = nn.BatchNorm2d


def conv_norm_relu(in_channels: int, channels: int) -> nn.Sequential:
    """Return a 1x1 convolution, batch norm and ReLU."""
    return plain(in_channels, channels, make_norm, 1)


class GlobalPool(nn.Module):
    """The mean over all places, a 1x1 convolution, norm and ReLU, and the result at every place again.

    In training the batch must have more than one image: a batch norm needs more than one value.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.conv = conv_norm_relu(channels, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pooled = self.conv(x.mean((2, 3), keepdim=True))  # N x C x 1 x 1
        return pooled.expand(-1, -1, *x.shape[-2:])  # enlarging one place bilinearly gives it everywhere


class Nothing(nn.Module):
    """Zeros."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(x)


_OPERATIONS: dict[str, Callable[[int, int], nn.Module]] = {
    "conv_1x1": lambda c, repeats: plain(c, c, make_norm, 1),
    "conv_3x3": lambda c, repeats: plain(c, c, make_norm, 3),
    "conv_3x3_dil3": lambda c, repeats: plain(c, c, make_norm, 3, 3),
    "conv_3x3_dil12": lambda c, repeats: plain(c, c, make_norm, 3, 12),
    "sep_conv_3x3": lambda c, repeats: separable(c, make_norm, 3, 1, repeats),
    "sep_conv_3x3_dil3": lambda c, repeats: separable(c, make_norm, 3, 3, repeats),
    "sep_conv_5x5": lambda c, repeats: separable(c, make_norm, 5, 1, repeats),
    "sep_conv_5x5_dil6": lambda c, repeats: separable(c, make_norm, 5, 6, repeats),
    "global_pool": lambda c, repeats: GlobalPool(c),
    "deformable_3x3": lambda c, repeats: deformable(c, make_norm),
    "skip": lambda c, repeats: nn.Identity(),
    "none": lambda c, repeats: Nothing(),
}

# In the order of their numbers: Table 6.1, and nas-segm-pytorch's list.
CELL_OPERATIONS = (
    "sep_conv_3x3", "global_pool", "sep_conv_3x3_dil3", "sep_conv_5x5_dil6", "skip", "deformable_3x3",
)  # fmt: skip
DECODER_OPERATIONS = (
    "conv_1x1", "conv_3x3", "sep_conv_3x3", "sep_conv_5x5", "global_pool", "conv_3x3_dil3", "conv_3x3_dil12",
    "sep_conv_3x3_dil3", "sep_conv_5x5_dil6", "skip", "none",
)  # fmt: skip


def build_operation(name: str, channels: int, repeats: int = 1) -> nn.Module:
    """Return a unary operation: (N, C, H, W) to (N, C, H, W).

    Args:
        name: one of :data:`CELL_OPERATIONS` or :data:`DECODER_OPERATIONS`.
        channels: C.
        repeats: how often a separable convolution, its norm and ReLU follow one another.
    """
    return _OPERATIONS[name](channels, repeats)

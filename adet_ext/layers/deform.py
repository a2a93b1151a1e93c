"""Deformable convolution with its own offset branch, as FCOS towers use it.

N images of H x W locations, C channels in, F out, G groups of input channels with offsets of their own, T taps.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F
from torchvision.ops import deform_conv2d

from ..d2.layers import Conv2d

__all__ = ["ConvWeights", "ModulatedDeformBlock", "sampled_deform_conv2d"]


class ConvWeights(nn.Module):
    """The parameters of a k x k convolution that another operator applies.

    torchvision's deformable convolution runs everywhere, Detectron2's layer only on GPUs.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int = 3, *, bias: bool = True, std: float | None = None
    ):
        """
        Args:
            std: initialize with this standard deviation, as FCOS does. None: uniformly, as ``nn.Conv2d`` does.
        """
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, kernel, kernel))
        if std is None:
            bound = 1 / math.sqrt(in_channels * kernel**2)
            nn.init.uniform_(self.weight, -bound, bound)
        else:
            nn.init.normal_(self.weight, std=std)
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None


class ModulatedDeformBlock(nn.Module):
    """A 3x3 modulated deformable convolution (DCNv2), with offsets and masks from a plain convolution.

    Maps (N, C_in, H, W) to (N, C_out, H, W). Parameters are named ``offset.*`` and ``conv.*``, as in AdelaiDet.
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, bias: bool = True, groups: int = 1, zero_offsets: bool = False
    ):
        """
        Args:
            groups: G, the groups of input channels that have offsets and masks of their own.
            zero_offsets: start with offsets 0 and masks 1/2, as DCNv2 does; else with random ones, as AdelaiDet does.
        """
        super().__init__()
        taps = 3 * 3
        self.num_offsets = 2 * taps * groups
        self.offset = Conv2d(in_channels, 3 * taps * groups, kernel_size=3, padding=1)
        self.conv = ConvWeights(in_channels, out_channels, bias=bias)
        if zero_offsets:
            nn.init.zeros_(self.offset.weight)
        else:
            nn.init.kaiming_uniform_(self.offset.weight, a=1)
        nn.init.zeros_(self.offset.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        offsets_and_mask = self.offset(x)  # (N, 27 G, H, W)
        offsets = offsets_and_mask[:, : self.num_offsets]
        mask = offsets_and_mask[:, self.num_offsets :].sigmoid()
        # Graphs for other runtimes need the operator itself.
        on_cpu = all(t.is_cpu and t.dtype == torch.float32 for t in (x, offsets, self.conv.weight))
        convolve = sampled_deform_conv2d if on_cpu and not torch.compiler.is_compiling() else deform_conv2d
        return convolve(x, offsets, self.conv.weight, self.conv.bias, padding=1, mask=mask)


def sampled_deform_conv2d(
    x: torch.Tensor,
    offsets: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    padding: int,
    mask: torch.Tensor,
) -> torch.Tensor:
    """Return what ``torchvision.ops.deform_conv2d`` does with stride and dilation 1, by ``grid_sample`` and a product.

    It takes a seventh to a half of its time on a CPU, with the backward pass an eighth to a quarter. Where a sample
    lies at a pixel's center, the bilinear kernel has a kink, and the offsets' gradient may be that of its other side.

    Args:
        x: (N, C, H, W).
        offsets: (N, 2 T G, H', W') in pixels, y before x, with H' = H + 2 padding - k + 1 for a k x k kernel.
        weight: (F, C, k, k), T = k^2.
        mask: (N, T G, H', W') factors.
    """
    kernel, (height, width), (rows, columns) = weight.shape[-1], x.shape[-2:], offsets.shape[-2:]
    taps = kernel**2
    groups = mask.shape[1] // taps
    shifts = torch.arange(kernel, dtype=x.dtype) - padding
    y = torch.arange(rows, dtype=x.dtype)[:, None] + shifts.repeat_interleave(kernel)[:, None, None]  # T x H' x 1
    x0 = torch.arange(columns, dtype=x.dtype) + shifts.repeat(kernel)[:, None, None]  # T x 1 x W'
    moves = offsets.unflatten(1, (groups, taps, 2))
    # grid_sample's coordinates: -1 and 1 are the outer edges of the first and of the last pixel.
    grid = torch.stack(
        [((moves[:, :, :, 1] + x0) * 2 + 1) / width - 1, ((moves[:, :, :, 0] + y) * 2 + 1) / height - 1], dim=-1
    ).view(-1, taps * rows, columns, 2)  # N G x T H' x W' x 2
    maps = x.reshape(-1, x.shape[1] // groups, height, width)  # N G x C / G x H x W
    samples = F.grid_sample(maps, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    samples = samples.view(len(x), groups, -1, taps, rows * columns) * mask.view(
        len(x), groups, 1, taps, rows * columns
    )
    found = weight.flatten(1) @ samples.reshape(len(x), -1, rows * columns)  # N x F x H' W'
    found = found.unflatten(2, (rows, columns))
    return found if bias is None else found + bias[:, None, None]

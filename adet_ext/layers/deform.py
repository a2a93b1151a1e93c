"""Deformable convolution with its own offset branch, as FCOS towers use it.

N images of H x W locations, C channels, G groups of input channels with offsets of their own.
"""

import math

import torch
from torch import nn

from ..d2.layers import Conv2d
from ..utils.deform_conv import deform_conv2d

__all__ = ["ConvWeights", "ModulatedDeformBlock"]


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
        return deform_conv2d(x, offsets, self.conv.weight, self.conv.bias, padding=1, mask=mask)

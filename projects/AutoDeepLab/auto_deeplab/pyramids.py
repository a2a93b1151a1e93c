"""What looks at a map at several rates: the atrous spatial pyramid, and the dense prediction cell in its place.

N images, C channels in, F out, H x W the map.
"""

from collections.abc import Sequence

import torch
from torch import nn

from .dpc import DenseCell, load_dense_genotype
from .operations import MakeNorm, resize

__all__ = ["AtrousPyramid", "ImagePooling", "build_pyramid", "conv_norm_relu"]


def conv_norm_relu(inputs: int, outputs: int, make_norm: MakeNorm, kernel: int = 1, dilation: int = 1) -> nn.Sequential:
    """Return a dense convolution that keeps the size, norm and ReLU."""
    padding = dilation * (kernel // 2)
    conv = nn.Conv2d(inputs, outputs, kernel, padding=padding, dilation=dilation, bias=False)
    return nn.Sequential(conv, make_norm(outputs), nn.ReLU(inplace=True))


class ImagePooling(nn.Module):
    """The mean over the image, a 1x1 convolution, norm and ReLU, given to every place."""

    def __init__(self, inputs: int, outputs: int, make_norm: MakeNorm):
        super().__init__()
        self.project = conv_norm_relu(inputs, outputs, make_norm)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (N, C, H, W) to (N, F, H, W)."""
        return resize(self.project(x.mean(dim=(2, 3), keepdim=True)), tuple(x.shape[-2:]))


class AtrousPyramid(nn.Module):
    """Image pooling, a 1x1 and dense 3x3 convolutions of several rates side by side; then a 1x1 convolution."""

    def __init__(self, inputs: int, outputs: int, rates: Sequence[int], make_norm: MakeNorm):
        super().__init__()
        self.branches = nn.ModuleList(
            [
                ImagePooling(inputs, outputs, make_norm),
                conv_norm_relu(inputs, outputs, make_norm),
                *(conv_norm_relu(inputs, outputs, make_norm, 3, rate) for rate in rates),
            ]
        )
        self.join = conv_norm_relu(outputs * len(self.branches), outputs, make_norm)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (N, C, H, W) to (N, F, H, W)."""
        return self.join(torch.cat([branch(x) for branch in self.branches], dim=1))


def build_pyramid(cfg, inputs: int, make_norm: MakeNorm) -> nn.Module:
    """Return the pyramid that ``MODEL.ATROUS_HEAD.PYRAMID`` names: "aspp", or a dense prediction cell."""
    node = cfg.MODEL.ATROUS_HEAD
    if node.PYRAMID == "aspp":
        return AtrousPyramid(inputs, node.WIDTH, node.RATES, make_norm)
    genotype, options = load_dense_genotype(node.PYRAMID), {"rate_factor": node.RATE_FACTOR, "dropout": node.DROPOUT}
    return DenseCell(genotype, inputs, node.WIDTH, make_norm=make_norm, **options)

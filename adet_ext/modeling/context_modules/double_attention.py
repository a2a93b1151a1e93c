"""Double attention (Chen et al. 2018, "A2-Nets"): gather global descriptors, distribute them to every place."""

import torch
from torch import nn

from ...d2.config import configurable
from ...d2.layers import Conv2d
from .build import CONTEXT_MODULE_REGISTRY

__all__ = ["DoubleAttention"]


@CONTEXT_MODULE_REGISTRY.register()
class DoubleAttention(nn.Module):
    """X + extend([phi(X) softmax(theta(X))^T] softmax(rho(X))).

    theta's softmax is over the places, one attention map for each of K descriptors; rho's is over the descriptors, at
    each place. The three projections are one convolution, which reads the features once.
    """

    @configurable
    def __init__(self, channels: int, *, width: int, nodes: int):
        """
        Args:
            channels: C.
            width: S, the channels of phi.
            nodes: K, the channels of theta and of rho.
        """
        super().__init__()
        self.widths = (width, nodes, nodes)
        self.project = Conv2d(channels, sum(self.widths), 1)
        self.extend = Conv2d(width, channels, 1)
        nn.init.kaiming_uniform_(self.project.weight, a=1)
        nn.init.zeros_(self.project.bias)
        # The module starts as the identity, so that it can join a trained network.
        nn.init.zeros_(self.extend.weight)
        nn.init.zeros_(self.extend.bias)

    @classmethod
    def from_config(cls, cfg, channels: int) -> dict:
        return {"channels": channels, "width": cfg.MODEL.CONTEXT.CHANNELS, "nodes": cfg.MODEL.CONTEXT.NODES}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (N, C, H, W) to the same shape."""
        phi, theta, rho = self.project(x).flatten(2).split(self.widths, dim=1)
        descriptors = phi @ theta.softmax(dim=2).transpose(1, 2)  # (N, S, K)
        distributed = descriptors @ rho.softmax(dim=1)  # (N, S, HW)
        return x + self.extend(distributed.unflatten(2, x.shape[2:]))

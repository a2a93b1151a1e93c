"""Global reasoning unit (Chen et al. 2019, "Graph-Based Global Reasoning Networks")."""

import torch
from torch import nn
from torch.nn import functional as F

from ...d2.config import configurable
from ...d2.layers import Conv2d, get_norm
from .build import CONTEXT_MODULE_REGISTRY

__all__ = ["GloRe"]


@CONTEXT_MODULE_REGISTRY.register()
class GloRe(nn.Module):
    """X + norm(extend(V' P)): P = project(X) is K x HW, V = state(X) P^T / HW and V' = W ReLU(V + mix(V)).

    ``mix`` is a learned K x K adjacency with a bias, in the place of I - A. The same P projects back.
    """

    @configurable
    def __init__(self, channels: int, *, nodes: int, norm: str):
        """
        Args:
            channels: C.
            nodes: K; a node has S = 2K channels.
            norm: of the extension; its scale starts at zero, so that the unit starts as the identity.
        """
        super().__init__()
        width = 2 * nodes
        self.widths = (width, nodes)
        self.project = Conv2d(channels, sum(self.widths), 1)  # the state and the projection, reading X once
        self.mix_nodes = nn.Conv1d(nodes, nodes, 1)
        self.mix_state = nn.Conv1d(width, width, 1, bias=False)
        self.extend = Conv2d(width, channels, 1, bias=not norm)
        self.norm = get_norm(norm, channels) or nn.Identity()
        for layer in (self.project, self.mix_nodes, self.mix_state, self.extend):
            nn.init.kaiming_uniform_(layer.weight, a=1)
        for bias in (self.project.bias, self.mix_nodes.bias):
            nn.init.zeros_(bias)
        last = self.norm if norm else self.extend
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        if isinstance(self.norm, nn.modules.batchnorm._BatchNorm):
            self.norm.eps = 1e-4

    @classmethod
    def from_config(cls, cfg, channels: int) -> dict:
        return {"channels": channels, "nodes": cfg.MODEL.CONTEXT.NODES, "norm": cfg.MODEL.CONTEXT.NORM}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (N, C, H, W) to the same shape."""
        state, project = self.project(x).flatten(2).split(self.widths, dim=1)
        nodes = state @ (project / project.shape[2]).transpose(1, 2)  # (N, S, K)
        mixed = self.mix_nodes(nodes.transpose(1, 2)).transpose(1, 2)
        nodes = self.mix_state(F.relu(nodes + mixed))
        return x + self.norm(self.extend((nodes @ project).unflatten(2, x.shape[2:])))

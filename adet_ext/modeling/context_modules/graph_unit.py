"""Graph convolutional unit (Li and Gupta 2018, "Beyond Grids")."""

import torch
from torch import nn
from torch.nn import functional as F

from ...d2.config import configurable
from ...d2.layers import Conv2d, get_norm
from .build import CONTEXT_MODULE_REGISTRY

__all__ = ["GraphConvUnit", "GraphProjection"]


class GraphProjection(nn.Module):
    """Soft assignment of pixels to K anchors w_k with scales sigma_k, and the assigned pixels' mean residuals."""

    def __init__(self, channels: int, nodes: int):
        super().__init__()
        self.anchor = nn.Parameter(torch.empty(nodes, channels).normal_(std=channels**-0.5))
        self.log_scale = nn.Parameter(torch.zeros(nodes, channels))  # sigma is positive

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the assignments and the vertices in float32, whatever autocast says.

        Args:
            x: (N, C, HW).

        Returns:
            Assignments q (N, K, HW), q_k = softmax_k(-||(x - w_k) / sigma_k||^2 / 2); vertices (N, C, K) of unit
            length, along sum q_k (x - w_k) / sigma_k / sum q_k.
        """
        if x.device.type == "meta":
            return self._project(x)
        with torch.autocast(x.device.type, enabled=False):
            return self._project(x)

    def _project(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x, anchor, inverse = x.float(), self.anchor.float(), torch.exp(-self.log_scale.float())
        precision = inverse.square()
        # The square is expanded: a difference of every pixel and anchor would take HW K C numbers.
        distance = precision @ x.square() - 2 * (precision * anchor) @ x
        distance = distance + (precision * anchor.square()).sum(dim=1, keepdim=True)
        assignment = (-distance / 2).softmax(dim=1)
        weights = assignment / assignment.sum(dim=2, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
        mean = x @ weights.transpose(1, 2)  # (N, C, K)
        residual = (mean - anchor.t()) * inverse.t()
        return assignment, F.normalize(residual, dim=1)


@CONTEXT_MODULE_REGISTRY.register()
class GraphConvUnit(nn.Module):
    """X + norm(extend(Q^T ReLU(Z^T Z Z^T W))): Q and Z are the assignments and vertices of :class:`GraphProjection`.

    The source does not state where norms stand, nor how the result joins the features; here a 1x1 convolution and a
    norm, whose scale starts at zero, bring it to C channels and it is added, as in GloRe. The paper runs units of
    several K side by side; MODEL.CONTEXT.UNITS runs units of one K in sequence.
    """

    @configurable
    def __init__(self, channels: int, *, width: int, nodes: int, norm: str):
        """
        Args:
            channels: C.
            width: S, the channels of a vertex after W.
            nodes: K.
            norm: after the extension.
        """
        super().__init__()
        self.graph = GraphProjection(channels, nodes)
        self.weight = nn.Linear(channels, width, bias=False)
        self.extend = Conv2d(width, channels, 1, bias=not norm)
        self.norm = get_norm(norm, channels) or nn.Identity()
        for layer in (self.weight, self.extend):
            nn.init.kaiming_uniform_(layer.weight, a=1)
        last = self.norm if norm else self.extend
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    @classmethod
    def from_config(cls, cfg, channels: int) -> dict:
        context = cfg.MODEL.CONTEXT
        return {"channels": channels, "width": context.CHANNELS, "nodes": context.NODES, "norm": context.NORM}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (N, C, H, W) to the same shape."""
        assignment, vertices = self.graph(x.flatten(2))
        adjacency = vertices.transpose(1, 2) @ vertices  # (N, K, K), cosines
        nodes = F.relu(self.weight(adjacency @ vertices.transpose(1, 2)))  # (N, K, S)
        back = nodes.transpose(1, 2) @ assignment.to(nodes.dtype)
        return x + self.norm(self.extend(back.unflatten(2, x.shape[2:])))

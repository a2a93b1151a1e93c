"""Symbolic graph reasoning (Liang et al. 2018): pixels vote for named nodes, which reason along a prior graph."""

import torch
from torch import nn
from torch.nn import functional as F

from ...d2.config import configurable
from ...d2.layers import Conv2d
from ..checks import check_choice
from .build import CONTEXT_MODULE_REGISTRY
from .node_vectors import node_vectors, prior_graph

__all__ = ["SymbolicReasoning"]


@CONTEXT_MODULE_REGISTRY.register()
class SymbolicReasoning(nn.Module):
    """X + ReLU(M H' W_sp), of three steps.

    1. Vote: H = ReLU(A^T (X W_ps)), A the softmax over the nodes of a 1x1 convolution at every pixel.
    2. Reason: H' = ReLU(An [H, E] W_g), E the nodes' vectors, An = Q^-1/2 (G + I) Q^-1/2 the normalized prior graph.
    3. Map back: M is a softmax over the pixels of the score of every pixel and node, each pixel's row scaled to the
       sum 1.

    The published score is w^T [h'_n, x_i], a term of the node plus a term of the pixel. The node's term cancels in the
    softmax over the pixels, and then the scaling leaves 1 / K for every pixel and node: each pixel gets the mean of the
    nodes. ``score="linear"`` is that; ``score="relu"`` takes the ReLU of the sum, after which nothing cancels.
    """

    @configurable
    def __init__(self, channels: int, *, width: int, vectors: torch.Tensor, graph: torch.Tensor | None, **options):
        """
        Args:
            channels: C.
            width: S, the channels of a node.
            vectors: E, (K, D).
            graph: G, (K, K), not negative; None: the positive part of the vectors' cosines.
            options: ``score``, "linear" or "relu"; ``learned``: whether the vectors are trained.
        """
        super().__init__()
        check_choice("MODEL.CONTEXT.SGR.SCORE", options["score"], ("linear", "relu"))
        self.score = options["score"]
        nodes = len(vectors)
        self.vote = Conv2d(channels, nodes, 1)
        self.to_nodes = Conv2d(channels, width, 1, bias=False)
        self.reason = nn.Linear(width + vectors.shape[1], width, bias=False)
        self.score_node = nn.Linear(width, 1, bias=False)
        self.score_pixel = Conv2d(channels, 1, 1)
        self.to_pixels = nn.Linear(width, channels, bias=False)
        for layer in (self.vote, self.to_nodes, self.reason, self.score_node, self.score_pixel):
            nn.init.kaiming_uniform_(layer.weight, a=1)
        nn.init.zeros_(self.vote.bias)
        nn.init.zeros_(self.score_pixel.bias)
        nn.init.normal_(self.to_pixels.weight, std=1e-3)  # nearly the identity; at zero, the ReLU would pass nothing
        if options["learned"]:
            self.vectors = nn.Parameter(vectors)
        else:
            self.register_buffer("vectors", vectors)
        self.register_buffer("graph", graph)

    @classmethod
    def from_config(cls, cfg, channels: int) -> dict:
        context = cfg.MODEL.CONTEXT
        names, vectors = node_vectors(cfg)
        return {
            "channels": channels,
            "width": context.CHANNELS,
            "vectors": vectors,
            "graph": prior_graph(context.SGR.GRAPH, names),
            "score": context.SGR.SCORE,
            "learned": context.SGR.VECTORS == "learned",
        }

    def adjacency(self) -> torch.Tensor:
        """Return An, (K, K)."""
        graph = self.graph
        if graph is None:
            unit = F.normalize(self.vectors, dim=1)
            graph = F.relu(unit @ unit.t())
        self_loops = torch.eye(len(graph), dtype=graph.dtype, device=graph.device)
        graph = graph * (1 - self_loops) + self_loops
        scale = graph.sum(dim=1).rsqrt()
        return scale[:, None] * graph * scale

    def mapping(self, x: torch.Tensor, nodes: torch.Tensor) -> torch.Tensor:
        """Return M transposed, (N, K, HW), of features (N, C, H, W) and nodes (N, K, S)."""
        score = self.score_node(nodes) + self.score_pixel(x).flatten(2)  # (N, K, 1) + (N, 1, HW)
        if self.score == "relu":
            score = F.relu(score)
        # The pixels' rows are scaled by a softmax over the nodes, of logarithms: a share may be too small for a number.
        return score.float().log_softmax(dim=2).softmax(dim=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (N, C, H, W) to the same shape."""
        votes = self.vote(x).flatten(2).softmax(dim=1)  # (N, K, HW)
        nodes = F.relu(votes @ self.to_nodes(x).flatten(2).transpose(1, 2))  # (N, K, S)
        known = self.vectors.to(nodes.dtype).expand(len(nodes), -1, -1)
        nodes = F.relu(self.adjacency().to(nodes.dtype) @ self.reason(torch.cat([nodes, known], dim=2)))
        mapping = self.mapping(x, nodes).to(nodes.dtype)
        # K is the smaller side: W_sp is applied to the nodes, not to the pixels.
        return x + F.relu(self.to_pixels(nodes).transpose(1, 2) @ mapping).unflatten(2, x.shape[2:])

"""Context modules: pixels are projected to a few entities, related to each other, and projected back.

A semantic branch names one in ``MODEL.CONTEXT.NAME`` and builds it with :func:`build_context_module`. Every module maps
(N, C, H, W) to the same shape and adds to its input. No module makes a tensor of HW x HW: the products are taken in the
order that costs O(HW C K), K the number of entities.

N images, C channels of the features, H x W their size, K entities (nodes), S channels of an entity.
"""

from .build import CONTEXT_MODULE_REGISTRY, build_context_module
from .double_attention import DoubleAttention
from .glore import GloRe
from .graph_unit import GraphConvUnit
from .semantic_head import ContextSemSegFPNHead
from .symbolic import SymbolicReasoning

__all__ = [
    "CONTEXT_MODULE_REGISTRY",
    "ContextSemSegFPNHead",
    "DoubleAttention",
    "GloRe",
    "GraphConvUnit",
    "SymbolicReasoning",
    "build_context_module",
]

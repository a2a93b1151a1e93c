"""The space of dynamic cells (thesis 6.3.2) for the search core: five tokens for each layer."""

from collections.abc import Callable, Sequence

import torch

from adet_ext.d2.config import CfgNode
from adet_ext.d2.layers import ShapeSpec
from adet_ext.d2.modeling import BACKBONE_REGISTRY
from adet_ext.errors import UserError
from adet_ext.nas.blocks import block_decisions, rows_of, smallest_order
from adet_ext.nas.space import Space

from .aggregations import AGGREGATIONS, SYMMETRIC
from .genotype import CELL_INPUTS, CellGenotype, node_name
from .operations import CELL_OPERATIONS
from .segmentor import build_cell, build_decoder

__all__ = ["CellSpace", "build_space", "draw_cell"]

_POOL = len(CELL_INPUTS)
_SYMMETRIC = tuple(AGGREGATIONS.index(name) for name in SYMMETRIC)
_WORDS = {"previous_layer4": "layer 4\nof the frame before", "previous_dec": "dec\nof the frame before"}


class CellSpace(Space):
    """Cells of some layers: two features of the pool, an operation on each, an aggregation; in this order.

    The pool of a layer has the five inputs and what the layers before it give. The order of the inputs in the pool is
    not printed; that of the tokens is NAS-FCOS', by the same authors.

    Args:
        layers: of a cell.
        why_too_large: says of a genotype why nothing is to be spent on it, "" for none; by default none is refused.
    """

    def __init__(self, layers: int, why_too_large: Callable[[CellGenotype], str] = lambda genotype: ""):
        names = [node_name(number) for number in range(_POOL + layers)]
        super().__init__("video_cell", block_decisions(layers, names, CELL_OPERATIONS, AGGREGATIONS, "layer"))
        self._why_too_large = why_too_large

    def genotype(self, tokens: Sequence[int]) -> CellGenotype:
        """Return the cell of the tokens."""
        return CellGenotype.from_numbers(rows_of(self.check(tokens)))

    def tokens_of(self, genotype: CellGenotype) -> tuple[int, ...]:
        """Return the tokens of a cell."""
        return self.check([token for row in genotype.to_numbers() for token in row])

    def why_rejected(self, tokens: Sequence[int]) -> str:
        """Return why the cell is too large, or ""."""
        return self._why_too_large(self.genotype(tokens))

    def canonical(self, tokens: Sequence[int]) -> tuple[int, ...]:
        """Return the smallest of the token lists that differ in the order of layers and, where the aggregation treats
        them alike, of a layer's two sides.
        """
        return tuple(token for row in smallest_order(rows_of(self.check(tokens)), _POOL, _SYMMETRIC) for token in row)

    def graph(self, tokens: Sequence[int]) -> dict:
        """Return the cell for a drawing, as Figure 1 of the supplement."""
        return draw_cell(self.genotype(tokens))


def draw_cell(cell: CellGenotype) -> dict:
    """Return nodes and edges of a cell; inputs that no layer takes do not appear."""
    nodes = [[name, _WORDS.get(name, name)] for name in (node_name(number) for number in cell.sampled_inputs)]
    nodes += [[node_name(_POOL + i), f"x{i + 1} {layer.aggregation}"] for i, layer in enumerate(cell.layers)]
    edges = [
        [node_name(number), node_name(_POOL + i), f"{side}: {operation}"]
        for i, layer in enumerate(cell.layers)
        for side, number, operation in zip((1, 2), layer.inputs, layer.operations)
    ]
    edges += [[node_name(number), "dec", ""] for number in cell.unsampled]
    return {"nodes": [*nodes, ["dec", "dec"]], "edges": edges}


def build_space(cfg: CfgNode) -> CellSpace:
    """Return the space that MODEL.VIDEO.SEARCH describes.

    Raises:
        UserError: it describes none, or the static network leaves no parameters for a cell.
    """
    node = cfg.MODEL.VIDEO.SEARCH
    if node.LAYERS < 1:
        raise UserError(f"MODEL.VIDEO.SEARCH.LAYERS must be 1 or more; got {node.LAYERS}")
    if not node.MAX_PARAMETERS:
        return CellSpace(node.LAYERS)
    with torch.device("meta"):
        backbone = BACKBONE_REGISTRY.get(cfg.MODEL.BACKBONE.NAME)(cfg, ShapeSpec(channels=3))
        shapes = backbone.output_shape()
        plain = cfg.clone()
        plain.MODEL.VIDEO.AUX_WEIGHT = 0.0
        static = _count(backbone) + _count(build_decoder(plain, shapes))

    def why_too_large(genotype: CellGenotype) -> str:
        with torch.device("meta"):
            total = static + _count(build_cell(cfg, shapes, genotype))
        if total <= node.MAX_PARAMETERS:
            return ""
        return f"the network must have at most {node.MAX_PARAMETERS} parameters; got {total}"

    smallest = CellGenotype.from_numbers([[0, 0, 4, 4, 5]])
    if reason := why_too_large(smallest):
        raise UserError(f"MODEL.VIDEO.SEARCH.MAX_PARAMETERS leaves nothing for a cell: {reason} with the smallest one")
    return CellSpace(node.LAYERS, why_too_large)


def _count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())

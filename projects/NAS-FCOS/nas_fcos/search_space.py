"""The spaces of thesis 7.3.2 for the search core: an FPN of basic blocks, a head of layers, and both together.

Each space turns a token list into genotypes (:meth:`FPNSpace.genotypes`), which need nothing of the search.
"""

import dataclasses
from collections.abc import Sequence

from adet_ext.d2.config import CfgNode
from adet_ext.errors import UserError
from adet_ext.nas.blocks import block_decisions, rows_of, smallest_order
from adet_ext.nas.space import Decision, Space

from .genotype import Block, FPNGenotype, HeadGenotype, node_name
from .operations import AGGREGATIONS, FPN_OPERATIONS, HEAD_OPERATIONS

__all__ = ["FPNSpace", "HeadSpace", "JointSpace", "SearchSpace", "build_space", "draw_fpn", "draw_head"]

FPN_BLOCKS = 7
HEAD_LAYERS = 6
_BODY = 4  # c2 to c5
_LEVELS = ("P5", "P4", "P3")

Genotypes = tuple[FPNGenotype | None, HeadGenotype | None]


class FPNSpace(Space):
    """FPNs of ``blocks`` basic blocks: two features of the pool, an operation on each, how they are merged.

    The pool of block t has c2 to c5 and the t - 1 blocks before it.
    """

    def __init__(self, blocks: int = FPN_BLOCKS):
        names = [node_name(number) for number in range(_BODY + blocks)]
        decisions = block_decisions(blocks, names, FPN_OPERATIONS, AGGREGATIONS)
        super().__init__("nas_fcos_fpn", decisions)

    def genotypes(self, tokens: Sequence[int]) -> Genotypes:
        """Return the FPN of the tokens, and no head."""
        return FPNGenotype.from_numbers(rows_of(self.check(tokens))), None

    def tokens_of(self, fpn: FPNGenotype) -> tuple[int, ...]:
        """Return the tokens of a genotype."""
        return self.encode([choice for block in fpn.blocks for choice in _choices(block)])

    def why_rejected(self, tokens: Sequence[int]) -> str:
        """Return why there are too few outputs, or ""."""
        return self.genotypes(tokens)[0].why_rejected()

    def canonical(self, tokens: Sequence[int]) -> tuple[int, ...]:
        """Return the smallest of the token lists that differ in the order of blocks and of a block's two sides alone.

        Both aggregations treat their sides alike. Blocks can be built in another order as long as each comes after its
        inputs, the outputs keep theirs, and what dangles stays before the outputs.
        """
        fpn, _ = self.genotypes(tokens)
        # An output comes after all that dangles and after the outputs before it.
        after = {output: {*fpn.dangling, *fpn.outputs[:place]} for place, output in enumerate(fpn.outputs)}
        rows = smallest_order(rows_of(self.check(tokens)), _BODY, range(len(AGGREGATIONS)), after)
        return tuple(token for row in rows for token in row)

    def graph(self, tokens: Sequence[int]) -> dict:
        """Return the FPN for a drawing, as thesis Figure 7.3."""
        return draw_fpn(self.genotypes(tokens)[0])


class HeadSpace(Space):
    """Heads of ``layers`` operations in sequence, and the first layer that all levels share."""

    def __init__(self, layers: int = HEAD_LAYERS):
        self.layers = layers
        decisions = [Decision(f"layer{i + 1}", "operation", tuple(HEAD_OPERATIONS)) for i in range(layers)]
        decisions.append(Decision("share_from", "sharing", tuple(map(str, range(layers + 1)))))
        super().__init__("nas_fcos_head", decisions)

    def genotypes(self, tokens: Sequence[int]) -> Genotypes:
        """Return no FPN, and the head of the tokens."""
        *operations, share_from = self.check(tokens)
        return None, HeadGenotype.from_numbers(operations, share_from)

    def tokens_of(self, head: HeadGenotype) -> tuple[int, ...]:
        """Return the tokens of a genotype."""
        return self.encode([*head.operations, str(head.share_from)])

    def canonical(self, tokens: Sequence[int]) -> tuple[int, ...]:
        """Return the tokens with all skip-connections last: these build nothing, wherever they stand."""
        *operations, share_from = self.check(tokens)
        skip = HEAD_OPERATIONS.index("skip")
        built = [operation for operation in operations if operation != skip]
        own = sum(operation != skip for operation in operations[:share_from])
        return (*built, *[skip] * (self.layers - len(built)), own)

    def graph(self, tokens: Sequence[int]) -> dict:
        """Return the head for a drawing, as thesis Figure 7.4."""
        return draw_head(self.genotypes(tokens)[1])


class JointSpace(Space):
    """FPN and head in one token list: the alternative to the progressive search (thesis 7.3.3)."""

    def __init__(self, blocks: int = FPN_BLOCKS, layers: int = HEAD_LAYERS):
        self.fpn, self.head = FPNSpace(blocks), HeadSpace(layers)
        decisions = [dataclasses.replace(d, name=f"fpn.{d.name}") for d in self.fpn.decisions]
        for d in self.head.decisions:
            kind = "head operation" if d.kind == "operation" else d.kind
            decisions.append(Decision(f"head.{d.name}", kind, d.choices))
        super().__init__("nas_fcos_joint", decisions)

    def _parts(self, tokens: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        tokens = self.check(tokens)
        return tokens[: len(self.fpn)], tokens[len(self.fpn) :]

    def genotypes(self, tokens: Sequence[int]) -> Genotypes:
        """Return the FPN and the head of the tokens."""
        fpn, head = self._parts(tokens)
        return self.fpn.genotypes(fpn)[0], self.head.genotypes(head)[1]

    def why_rejected(self, tokens: Sequence[int]) -> str:
        """Return why the FPN has too few outputs, or ""."""
        return self.fpn.why_rejected(self._parts(tokens)[0])

    def canonical(self, tokens: Sequence[int]) -> tuple[int, ...]:
        """Return the canonical tokens of both parts."""
        fpn, head = self._parts(tokens)
        return self.fpn.canonical(fpn) + self.head.canonical(head)

    def graph(self, tokens: Sequence[int]) -> dict:
        """Return FPN and head for a drawing, the head behind the outputs."""
        fpn, head = (draw(genotype) for draw, genotype in zip((draw_fpn, draw_head), self.genotypes(tokens)))
        joints = [[level, "levels", ""] for level in _LEVELS]
        return {"nodes": fpn["nodes"] + head["nodes"], "edges": fpn["edges"] + joints + head["edges"]}


SearchSpace = FPNSpace | HeadSpace | JointSpace


def build_space(cfg: CfgNode) -> SearchSpace:
    """Return the space that MODEL.NAS_FCOS.SEARCH describes; raise UserError where it describes none."""
    node = cfg.MODEL.NAS_FCOS.SEARCH
    if node.STAGE not in ("fpn", "head", "joint"):
        raise UserError(f"MODEL.NAS_FCOS.SEARCH.STAGE must be fpn, head or joint; got {node.STAGE!r}. Name one of them")
    if node.STAGE != "head" and node.BLOCKS < 3:
        raise UserError(f"MODEL.NAS_FCOS.SEARCH.BLOCKS must be 3 or more, for three outputs; got {node.BLOCKS}")
    if node.STAGE != "fpn" and node.LAYERS < 1:
        raise UserError(f"MODEL.NAS_FCOS.SEARCH.LAYERS must be 1 or more; got {node.LAYERS}")
    if node.STAGE == "joint":
        return JointSpace(node.BLOCKS, node.LAYERS)
    return FPNSpace(node.BLOCKS) if node.STAGE == "fpn" else HeadSpace(node.LAYERS)


def draw_fpn(fpn: FPNGenotype) -> dict:
    """Return nodes and edges of an FPN; features that no block takes do not appear."""
    edges = []
    for t, block in enumerate(fpn.blocks):
        name = node_name(_BODY + t)
        edges += [[node_name(i), name, operation] for i, operation in zip(block.inputs, block.operations)]
    for level, number in zip(_LEVELS, fpn.outputs):
        edges.append([node_name(number), level, ""])
        edges += [[node_name(dangling), level, "+"] for dangling in fpn.dangling]
    used = {name for source, target, _ in edges for name in (source, target)}
    body = [node_name(number) for number in range(_BODY)]
    nodes = [[name, name.upper()] for name in body if name in used]
    nodes += [[node_name(_BODY + t), f"x{t + 1} {block.aggregation}"] for t, block in enumerate(fpn.blocks)]
    return {"nodes": nodes + [[level, level] for level in _LEVELS if level in used], "edges": edges}


def draw_head(head: HeadGenotype) -> dict:
    """Return nodes and edges of one tower; skip-connections do not appear."""
    nodes, edges = [["levels", "P3 to P7"]], []
    for i, operation in enumerate(head.operations):
        if operation != "skip":
            sharing = "shared" if i >= head.share_from else "per level"
            edges.append([nodes[-1][0], f"layer{i + 1}", ""])
            nodes.append([f"layer{i + 1}", f"{operation}\n{sharing}"])
    edges.append([nodes[-1][0], "prediction", ""])
    return {"nodes": [*nodes, ["prediction", "prediction"]], "edges": edges}


def _choices(block: Block) -> list[str]:
    return [*map(node_name, block.inputs), *block.operations, block.aggregation]

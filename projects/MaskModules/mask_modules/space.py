"""The search space, for the search core: operations, connections, width, and where dynamic factors enter."""

from collections.abc import Callable, Sequence

from adet_ext.d2.config import CfgNode
from adet_ext.errors import UserError
from adet_ext.nas.space import Decision, Space

from .cost import ModuleCost
from .genotype import FACTORS, INPUTS, OPERATIONS, SKIP, TOWER, UPSAMPLINGS, Level, MaskGenotype, load_genotype

__all__ = ["WIDTHS", "MaskSpace", "build_space"]

WIDTHS = (16, 32, 48, 64, 96, 128)
_SKIPPED = (SKIP, *OPERATIONS)


class MaskSpace(Space):
    """Modules for ``levels`` levels. Token lists that build the same module are one."""

    def __init__(self, levels: int = 3, why_rejected: Callable[[MaskGenotype], str] = lambda genotype: ""):
        """
        Args:
            why_rejected: returns why nothing is to be spent on a module, or "".
        """
        self.levels, self._why_rejected = levels, why_rejected
        decisions = [
            Decision("width", "width", tuple(map(str, WIDTHS))),
            Decision("upsampling", "upsampling", UPSAMPLINGS),
        ]
        for i in range(levels):
            decisions.append(Decision(f"level{i}.input", "input", INPUTS))
            decisions.append(Decision(f"level{i}.merge", "operation", _SKIPPED))
            decisions.append(Decision(f"level{i}.factors", "factors", FACTORS))
        for i in range(1, levels):
            decisions.append(Decision(f"level{i}.joins", "location", tuple(f"level{k}" for k in range(i))))
        decisions += [Decision(f"tower{i}", "operation", _SKIPPED) for i in range(TOWER)]
        decisions.append(Decision("last", "operation", _SKIPPED))
        super().__init__("mask_modules", decisions)

    def genotype(self, tokens: Sequence[int]) -> MaskGenotype:
        """Return the module of the tokens. Factors of a level without a convolution are dropped."""
        width, upsampling, *names = self.decode(tokens)
        rows = [names[3 * i : 3 * i + 3] for i in range(self.levels)]
        joins, rest = names[3 * self.levels : -TOWER - 1], names[-TOWER - 1 :]
        return MaskGenotype(
            width=int(width),
            upsampling=upsampling,
            levels=tuple(Level(a, merge, "none" if merge == SKIP else factors) for a, merge, factors in rows),
            joins=tuple(int(name.removeprefix("level")) for name in joins),
            tower=tuple(name for name in rest[:-1] if name != SKIP),
            last=rest[-1],
        )

    def tokens_of(self, genotype: MaskGenotype) -> tuple[int, ...]:
        """Return the tokens of a module.

        Raises:
            UserError: it has other levels or another width than the space.
        """
        choices = [str(genotype.width), genotype.upsampling]
        for level in genotype.levels:
            choices += [level.input, level.merge, level.factors]
        choices += [f"level{target}" for target in genotype.joins]
        choices += [*genotype.tower, *[SKIP] * (TOWER - len(genotype.tower)), genotype.last]
        return self.encode(choices)

    def canonical(self, tokens: Sequence[int]) -> tuple[int, ...]:
        """Return the tokens with the tower's convolutions first, and no factors without a convolution."""
        return self.tokens_of(self.genotype(tokens))

    def why_rejected(self, tokens: Sequence[int]) -> str:
        return self._why_rejected(self.genotype(tokens))

    def graph(self, tokens: Sequence[int]) -> dict:
        """Return the module for a drawing."""
        found = self.genotype(tokens)
        nodes, edges = [], []
        for i, level in enumerate(found.levels):
            factors = "" if level.factors == "none" else f" with {' and '.join(level.factors.upper())}"
            nodes += [[f"p{i}", f"level {i}"], [f"x{i}", f"{level.merge}{factors}"]]
            edges.append([f"p{i}", f"x{i}", level.input])
        edges += [[f"x{i}", f"x{target}", ""] for i, target in enumerate(found.joins, 1)]
        before = "x0"
        for i, name in enumerate(found.tower):
            nodes.append([f"t{i}", name])
            edges.append([before, f"t{i}", ""])
            before = f"t{i}"
        nodes.append(["out", f"bases, {found.width} channels"])
        return {"nodes": nodes, "edges": [*edges, [before, "out", found.last]]}


def build_space(cfg: CfgNode) -> MaskSpace:
    """Return the space of a config, with MAX_COST times the multiply-adds of REFERENCE as its limit.

    Raises:
        UserError: MAX_COST is negative, or REFERENCE has other levels than MODEL.BASIS_MODULE.IN_FEATURES.
    """
    node, levels = cfg.MODEL.MASK_MODULES.SEARCH, len(cfg.MODEL.BASIS_MODULE.IN_FEATURES)
    if node.MAX_COST < 0:
        raise UserError(f"MODEL.MASK_MODULES.SEARCH.MAX_COST must be 0 or more; got {node.MAX_COST}")
    reference = load_genotype(node.REFERENCE)
    if len(reference.levels) != levels:
        raise UserError(
            f"MODEL.MASK_MODULES.SEARCH.REFERENCE must have {levels} levels, as MODEL.BASIS_MODULE.IN_FEATURES; got "
            f"{len(reference.levels)} in {node.REFERENCE}"
        )
    costs = ModuleCost.from_config(cfg)
    limit = node.MAX_COST * costs.of(reference)

    def why_rejected(genotype: MaskGenotype) -> str:
        cost = costs.of(genotype)
        return f"{cost / 1e6:.0f} M multiply-adds of {limit / 1e6:.0f} M" if limit and cost > limit else ""

    return MaskSpace(levels, why_rejected)

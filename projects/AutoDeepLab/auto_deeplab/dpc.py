"""The dense prediction cell (Chen et al. 2018): branches of one operation each, on the map or on earlier branches.

N images, C channels in, F of a branch, H x W the map.
"""

import dataclasses
import itertools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from adet_ext.errors import UserError
from adet_ext.nas.space import Decision, Space
from adet_ext.utils.genotypes import check_keys, check_one_of, entries_of, load_kind, shortened, write_genotype

from .operations import MakeNorm, resize

__all__ = ["OPERATIONS", "Branch", "DenseCell", "DenseGenotype", "DenseSpace", "load_dense_genotype"]

_RATES = (1, 3, 6, 9, 12, 15, 18, 21)
_GRIDS = (1, 2, 4, 8)
_MAP = "map"
_FOLDER = Path(__file__).resolve().parent / "architectures"
# 1 + 64 + 16: names say what is built; rates and grids are height x width.
OPERATIONS = (
    "conv_1x1",
    *(f"atrous_{y}x{x}" for y in _RATES for x in _RATES),
    *(f"pool_{y}x{x}" for y in _GRIDS for x in _GRIDS),
)


@dataclasses.dataclass(frozen=True)
class Branch:
    """An operation on the map (-1) or on an earlier branch (0, 1, ...)."""

    input: int
    operation: str


@dataclasses.dataclass(frozen=True)
class DenseGenotype:
    """The branches of a cell, in an order in which each comes after its input.

    Raises:
        UserError: an input does not come before its branch, or an operation is unknown.
    """

    branches: tuple[Branch, ...]

    def __post_init__(self) -> None:
        for i, branch in enumerate(self.branches):
            if not -1 <= branch.input < i:
                raise UserError(f"branch {i}: the input must be -1 to {i - 1}; got {shortened(branch.input)}")
            check_one_of(f"branch {i}: the operation", branch.operation, OPERATIONS)
        if not self.branches:
            raise UserError("a dense prediction cell must have a branch or more; got none")

    def to_json(self) -> dict[str, Any]:
        """Return the genotype as a value for JSON."""
        return {"kind": "dpc", "branches": [{"input": b.input, "operation": b.operation} for b in self.branches]}

    @classmethod
    def from_json(cls, value: Any) -> "DenseGenotype":
        """Return the genotype of a JSON value; raise UserError where it is none."""
        branches = []
        for i, entry in enumerate(entries_of(value, "branches", "a dense prediction cell")):
            check_keys(f"branch {i}", entry, "input", "operation")
            if not isinstance(entry["input"], int):
                raise UserError(f"branch {i}: the input must be a whole number; got {shortened(entry['input'])}")
            branches.append(Branch(entry["input"], entry["operation"]))
        return cls(tuple(branches))

    def save(self, path: str | os.PathLike) -> None:
        """Write the genotype as JSON, beside its place first."""
        write_genotype(self.to_json(), path)


def load_dense_genotype(name: str) -> DenseGenotype:
    """Return the cell that comes with the project under this name, or the one in a JSON file.

    Raises:
        UserError: no such name or file, or it holds no cell.
    """
    return load_kind(name, _FOLDER, {"dpc": DenseGenotype.from_json})


class DenseSpace(Space):
    """Cells of ``branches`` branches: B! * 81^B token lists."""

    def __init__(self, branches: int = 5):
        decisions = []
        for i in range(branches):
            inputs = (_MAP, *(f"branch{k}" for k in range(i)))
            decisions.append(Decision(f"branch{i}.input", "location", inputs))
            decisions.append(Decision(f"branch{i}.operation", "operation", OPERATIONS))
        super().__init__("dpc", decisions)

    def genotype(self, tokens: Sequence[int]) -> DenseGenotype:
        """Return the cell of the tokens."""
        tokens = self.check(tokens)
        pairs = zip(tokens[::2], tokens[1::2])
        return DenseGenotype(tuple(Branch(place - 1, OPERATIONS[operation]) for place, operation in pairs))

    def tokens_of(self, genotype: DenseGenotype) -> tuple[int, ...]:
        """Return the tokens of a cell."""
        return self.check([t for b in genotype.branches for t in (b.input + 1, OPERATIONS.index(b.operation))])

    def canonical(self, tokens: Sequence[int]) -> tuple[int, ...]:
        """Return the smallest of the token lists that differ in the order of the branches alone.

        Every branch is in the output, where a 1x1 convolution follows.
        """
        tokens = self.check(tokens)
        rows = list(zip(tokens[::2], tokens[1::2]))
        return min(filter(None, (_reordered(rows, order) for order in itertools.permutations(range(len(rows))))))

    def graph(self, tokens: Sequence[int]) -> dict:
        """Return the cell for a drawing."""
        branches = self.genotype(tokens).branches
        nodes = [[_MAP, "features"], *([f"branch{i}", b.operation] for i, b in enumerate(branches)), ["out", "output"]]
        edges = [[_MAP if b.input < 0 else f"branch{b.input}", f"branch{i}", ""] for i, b in enumerate(branches)]
        return {"nodes": nodes, "edges": edges + [[f"branch{i}", "out", ""] for i in range(len(branches))]}


def _reordered(rows: Sequence[tuple[int, int]], order: Sequence[int]) -> tuple[int, ...] | None:
    """Return the tokens of branches in another order; None where one would come before its input."""
    places = {0: 0} | {old + 1: new + 1 for new, old in enumerate(order)}
    tokens: list[int] = []
    for new, old in enumerate(order):
        place, operation = rows[old]
        if places[place] > new:
            return None
        tokens += [places[place], operation]
    return tuple(tokens)


class _Pooling(nn.Module):
    """Means over a window of H / rows x W / columns with stride 1, a 1x1 convolution, norm, ReLU; resized back."""

    def __init__(self, inputs: int, outputs: int, grid: tuple[int, int], make_norm: MakeNorm):
        super().__init__()
        self.grid = grid
        self.project = nn.Sequential(nn.Conv2d(inputs, outputs, 1, bias=False), make_norm(outputs), nn.ReLU())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        height, width = x.shape[-2:]
        window = [max(1, height // self.grid[0]), max(1, width // self.grid[1])]
        return resize(self.project(F.avg_pool2d(x, window, stride=1)), (height, width))


def _build_branch(name: str, inputs: int, outputs: int, factor: int, make_norm: MakeNorm) -> nn.Module:
    kind, _, numbers = name.partition("_")
    sides = tuple(int(number) for number in numbers.split("x"))
    if kind == "pool":
        return _Pooling(inputs, outputs, sides, make_norm)
    join = [nn.Conv2d(inputs, outputs, 1, bias=False), make_norm(outputs), nn.ReLU()]
    if kind == "conv":
        return nn.Sequential(*join)
    rates = tuple(factor * side for side in sides)
    depthwise = nn.Conv2d(inputs, inputs, 3, padding=rates, dilation=rates, groups=inputs, bias=False)
    return nn.Sequential(depthwise, make_norm(inputs), nn.ReLU(), *join)


class DenseCell(nn.Module):
    """The concatenation of all branches, dropout, and a 1x1 convolution, norm and ReLU."""

    def __init__(
        self,
        genotype: DenseGenotype,
        inputs: int,
        outputs: int,
        *,
        rate_factor: int = 1,
        dropout: float = 0.1,
        make_norm: MakeNorm = nn.BatchNorm2d,
    ):
        """
        Args:
            inputs, outputs: C, F.
            rate_factor: multiplies the rates, which are for an output stride of 16; 2 at stride 8.
        """
        super().__init__()
        self.inputs = [branch.input for branch in genotype.branches]
        self.branches = nn.ModuleList(
            [
                _build_branch(b.operation, inputs if b.input < 0 else outputs, outputs, rate_factor, make_norm)
                for b in genotype.branches
            ]
        )
        join = nn.Conv2d(len(self.inputs) * outputs, outputs, 1, bias=False)
        self.join = nn.Sequential(nn.Dropout2d(dropout), join, make_norm(outputs), nn.ReLU())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (N, C, H, W) to (N, F, H, W)."""
        results: list[torch.Tensor] = []
        for branch, place in zip(self.branches, self.inputs):
            results.append(branch(x if place < 0 else results[place]))
        return self.join(torch.cat(results, dim=1))

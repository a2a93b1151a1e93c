"""The genotype of a dynamic cell (thesis 6.3.2): what it is made of, without its width and weights; and files of
genotypes.
"""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from adet_ext.errors import UserError
from adet_ext.utils.genotypes import (
    check_keys,
    check_one_of,
    entries_of,
    load_kind,
    pair_of,
    pick,
    read_genotype,
    write_genotype,
)

from .aggregations import AGGREGATIONS
from .decoder_genotype import DecoderGenotype
from .operations import CELL_OPERATIONS

__all__ = [
    "CELL_INPUTS",
    "CellGenotype",
    "CellLayer",
    "architecture_names",
    "kind_of",
    "load_genotype",
    "node_name",
    "save_genotype",
]

_FOLDER = Path(__file__).resolve().parent / "architectures"

Genotype = TypeVar("Genotype", "CellGenotype", DecoderGenotype)

# What the cell is given, in the order of thesis 6.3.1; the order of the pool is not printed.
CELL_INPUTS = ("previous_layer4", "previous_dec", "layer2", "layer3", "layer4")


def node_name(number: int) -> str:
    """Return the name of a feature in the cell's pool: 0 is "previous_layer4", 5 is "x1"."""
    return CELL_INPUTS[number] if number < len(CELL_INPUTS) else f"x{number - len(CELL_INPUTS) + 1}"


@dataclasses.dataclass(frozen=True)
class CellLayer:
    """A layer of the cell: two features of the pool, an operation on each, and how the results are merged."""

    inputs: tuple[int, int]
    operations: tuple[str, str]
    aggregation: str


@dataclasses.dataclass(frozen=True)
class CellGenotype:
    """The layers of a dynamic cell, in order; layer i, counted from 0, gives the feature with number 5 + i.

    Raises:
        UserError: no layer, or one that takes a feature that is not there yet or names an unknown operation.
    """

    kind: ClassVar[str] = "cell"

    layers: tuple[CellLayer, ...]

    def __post_init__(self):
        if not self.layers:
            raise UserError("a cell must have one layer or more; got none")
        for i, layer in enumerate(self.layers):
            where, pool = f"cell layer {i + 1}", len(CELL_INPUTS) + i
            for number in layer.inputs:
                if not 0 <= number < pool:
                    raise UserError(f"{where}: an input must be one of the {pool} in the pool; got {number}")
            for name in layer.operations:
                check_one_of(f"{where}: an operation", name, CELL_OPERATIONS)
            check_one_of(f"{where}: the aggregation", layer.aggregation, AGGREGATIONS)

    @classmethod
    def from_numbers(cls, rows: Sequence[Sequence[int]]) -> "CellGenotype":
        """Return the genotype of rows (input, input, operation, operation, aggregation) of numbers."""
        layers = []
        for i, row in enumerate(rows):
            where = f"cell layer {i + 1}"
            if len(row) != 5:
                raise UserError(f"{where} must have 5 numbers; got {len(row)}")
            operations = tuple(pick(f"{where}: an operation", CELL_OPERATIONS, op) for op in row[2:4])
            merge = pick(f"{where}: the aggregation", AGGREGATIONS, row[4])
            layers.append(CellLayer((row[0], row[1]), operations, merge))
        return cls(tuple(layers))

    def to_numbers(self) -> list[list[int]]:
        """Return the rows of :meth:`from_numbers`."""
        return [
            [*layer.inputs, *map(CELL_OPERATIONS.index, layer.operations), AGGREGATIONS.index(layer.aggregation)]
            for layer in self.layers
        ]

    @property
    def unsampled(self) -> tuple[int, ...]:
        """The numbers of the aggregated results that no later layer takes, in order: they become the output."""
        taken = {number for layer in self.layers for number in layer.inputs}
        return tuple(n for n in range(len(CELL_INPUTS), len(CELL_INPUTS) + len(self.layers)) if n not in taken)

    @property
    def sampled_inputs(self) -> tuple[int, ...]:
        """The numbers of the five inputs that some layer takes, in order."""
        taken = {number for layer in self.layers for number in layer.inputs}
        return tuple(number for number in range(len(CELL_INPUTS)) if number in taken)

    def to_json(self) -> dict[str, Any]:
        """Return the genotype as a JSON value."""
        layers = [
            {
                "inputs": [node_name(number) for number in layer.inputs],
                "operations": list(layer.operations),
                "aggregation": layer.aggregation,
            }
            for layer in self.layers
        ]
        return {"kind": self.kind, "layers": layers}

    @classmethod
    def from_json(cls, value: Any) -> "CellGenotype":
        """Return the genotype of a JSON value; raise UserError where it is none."""
        entries = entries_of(value, "layers", "a cell genotype")
        names = {node_name(number): number for number in range(len(CELL_INPUTS) + len(entries))}
        layers = []
        for i, entry in enumerate(entries):
            where = f"cell layer {i + 1}"
            check_keys(where, entry, "inputs", "operations", "aggregation")
            inputs, operations = (pair_of(where, name, entry[name]) for name in ("inputs", "operations"))
            for name in inputs:
                check_one_of(f"{where}: an input", name, tuple(names)[: len(CELL_INPUTS) + i])
            layers.append(CellLayer(tuple(names[name] for name in inputs), operations, entry["aggregation"]))
        return cls(tuple(layers))


def architecture_names() -> list[str]:
    """Return the names of the genotypes that come with the project."""
    return sorted(path.stem for path in _FOLDER.glob("*.json"))


def kind_of(name: str) -> str:
    """Return the kind of a genotype that :func:`load_genotype` would load: "cell", "decoder", or what the file says.

    Raises:
        UserError: no such name or file, or it holds no JSON.
    """
    return str(read_genotype(name, _FOLDER)[1].get("kind"))


def load_genotype(name: str, kind: type[Genotype]) -> Genotype:
    """Return a genotype by the name of one that comes with the project, or by the path of a JSON file.

    Args:
        kind: :class:`CellGenotype` or :class:`DecoderGenotype`.

    Raises:
        UserError: no such name or file, or it holds no genotype of this kind.
    """
    return load_kind(name, _FOLDER, {kind.kind: kind.from_json})


def save_genotype(genotype: CellGenotype | DecoderGenotype, path: str | os.PathLike) -> None:
    """Write a genotype as JSON, beside its place first."""
    write_genotype(genotype.to_json(), path)

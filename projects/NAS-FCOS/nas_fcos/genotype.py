"""Genotypes: what a decoder is made of, without its widths and weights; read from and written to JSON.

The pool of an FPN holds the backbone's features c2 to c5 (strides 4 to 32), numbers 0 to 3, then the outputs x1, x2,
... of its blocks, numbers 4, 5, ... (thesis 7.3.2).
"""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from adet_ext.errors import UserError
from adet_ext.utils.genotypes import (
    check_keys,
    check_one_of,
    entries_of,
    load_kind,
    pair_of,
    pick,
    shortened,
    write_genotype,
)

from .operations import AGGREGATIONS, FPN_OPERATIONS, HEAD_OPERATIONS

__all__ = ["BODY_STRIDES", "Block", "FPNGenotype", "HeadGenotype", "architecture_names", "load_genotype", "node_name"]

BODY_STRIDES = (4, 8, 16, 32)
_BODY = ("c2", "c3", "c4", "c5")
_OUTPUTS = 3  # P3, P4 and P5
_FOLDER = Path(__file__).resolve().parent / "architectures"


def node_name(number: int) -> str:
    """Return the name of a feature in the pool: 3 is "c5", 4 is "x1"."""
    return _BODY[number] if number < len(_BODY) else f"x{number - len(_BODY) + 1}"


@dataclasses.dataclass(frozen=True)
class Block:
    """A basic block: two features of the pool, an operation on each, and how the results are merged."""

    inputs: tuple[int, int]
    operations: tuple[str, str]
    aggregation: str


@dataclasses.dataclass(frozen=True)
class FPNGenotype:
    """The blocks of an FPN, in order; block t, counted from 0, gives the feature with number 4 + t.

    Features that no later block takes are *unsampled*. The last three of them become P5, P4 and P3, in this order, and
    each of the others is added to all three (equation 7.1).

    Raises:
        UserError: a block takes a feature that is not there yet, or names an unknown operation or aggregation.
    """

    blocks: tuple[Block, ...]

    def __post_init__(self):
        for t, block in enumerate(self.blocks):
            where, pool = f"FPN block {t + 1}", len(_BODY) + t
            for number in block.inputs:
                if not 0 <= number < pool:
                    got = node_name(number) if number >= 0 else number
                    raise UserError(f"{where}: an input must be c2 to {node_name(pool - 1)}; got {got}. Correct it")
            for name in block.operations:
                check_one_of(f"{where}: an operation", name, FPN_OPERATIONS)
            check_one_of(f"{where}: the aggregation", block.aggregation, AGGREGATIONS)

    @classmethod
    def from_numbers(cls, tuples: Sequence[Sequence[int]]) -> "FPNGenotype":
        """Return the genotype of tuples (input, input, operation, operation, aggregation) of numbers.

        Numbers of operations are places in :data:`FPN_OPERATIONS`, those of aggregations in :data:`AGGREGATIONS`.
        """
        blocks = []
        for t, numbers in enumerate(tuples):
            where = f"FPN block {t + 1}"
            if len(numbers) != 5:
                raise UserError(f"{where} must have 5 numbers; got {len(numbers)}")
            first, second, op1, op2, merge = numbers
            names = [pick(f"{where}: an operation", FPN_OPERATIONS, op) for op in (op1, op2)]
            merge = pick(f"{where}: the aggregation", AGGREGATIONS, merge)
            blocks.append(Block((first, second), tuple(names), merge))
        return cls(tuple(blocks))

    @property
    def unsampled(self) -> tuple[int, ...]:
        """The numbers of the blocks' outputs that no block takes, in order."""
        taken = {number for block in self.blocks for number in block.inputs}
        return tuple(n for n in range(len(_BODY), len(_BODY) + len(self.blocks)) if n not in taken)

    @property
    def outputs(self) -> tuple[int, ...]:
        """The numbers of the features that become P5, P4 and P3."""
        return self.unsampled[-_OUTPUTS:]

    @property
    def dangling(self) -> tuple[int, ...]:
        """The numbers of the features that are added to all outputs."""
        return self.unsampled[:-_OUTPUTS]

    @property
    def strides(self) -> tuple[int, ...]:
        """The strides of all features of the pool: a block's is the smaller of its inputs'."""
        strides = list(BODY_STRIDES)
        for block in self.blocks:
            strides.append(min(strides[number] for number in block.inputs))
        return tuple(strides)

    def why_rejected(self) -> str:
        """Return why no FPN can be made of this genotype, or "" where one can."""
        count = len(self.unsampled)
        if count >= _OUTPUTS:
            return ""
        return f"an FPN must have {_OUTPUTS} blocks or more that no later block takes, for P3 to P5; got {count}"

    def to_json(self) -> dict[str, Any]:
        """Return the genotype as a JSON value."""
        blocks = [
            {
                "inputs": [node_name(number) for number in block.inputs],
                "operations": list(block.operations),
                "aggregation": block.aggregation,
            }
            for block in self.blocks
        ]
        return {"kind": "fpn", "blocks": blocks}

    @classmethod
    def from_json(cls, value: Any) -> "FPNGenotype":
        """Return the genotype of a JSON value; raise UserError where it is none."""
        entries = entries_of(value, "blocks", "an FPN genotype")
        names = {node_name(number): number for number in range(len(_BODY) + len(entries))}
        blocks = []
        for t, entry in enumerate(entries):
            where = f"FPN block {t + 1}"
            check_keys(where, entry, "inputs", "operations", "aggregation")
            inputs, operations = (pair_of(where, name, entry[name]) for name in ("inputs", "operations"))
            for name in inputs:
                check_one_of(f"{where}: an input", name, tuple(names)[: len(_BODY) + t])
            blocks.append(Block(tuple(names[name] for name in inputs), operations, entry["aggregation"]))
        return cls(tuple(blocks))


@dataclasses.dataclass(frozen=True)
class HeadGenotype:
    """The layers of a head, in order, and the first of them that all levels share (thesis 7.3.2).

    ``share_from`` is 0 where all layers are shared, and the number of layers where none is.

    Raises:
        UserError: no layers, an unknown operation, or ``share_from`` out of range.
    """

    operations: tuple[str, ...]
    share_from: int = 0

    def __post_init__(self):
        if not self.operations:
            raise UserError("a head must have one layer or more; got none")
        for i, name in enumerate(self.operations):
            check_one_of(f"head layer {i + 1}: the operation", name, HEAD_OPERATIONS)
        count = len(self.operations)
        whole = isinstance(self.share_from, int) and not isinstance(self.share_from, bool)
        if not whole or not 0 <= self.share_from <= count:
            raise UserError(f"a head's share_from must be 0 to {count}; got {shortened(self.share_from)}. Correct it")

    @classmethod
    def from_numbers(cls, operations: Sequence[int], share_from: int = 0) -> "HeadGenotype":
        """Return the genotype of places in :data:`HEAD_OPERATIONS`."""
        names = [pick(f"head layer {i + 1}: the operation", HEAD_OPERATIONS, op) for i, op in enumerate(operations)]
        return cls(tuple(names), share_from)

    def to_json(self) -> dict[str, Any]:
        """Return the genotype as a JSON value."""
        return {"kind": "head", "operations": list(self.operations), "share_from": self.share_from}

    @classmethod
    def from_json(cls, value: Any) -> "HeadGenotype":
        """Return the genotype of a JSON value; raise UserError where it is none."""
        return cls(tuple(entries_of(value, "operations", "a head genotype")), value.get("share_from", 0))


def architecture_names() -> list[str]:
    """Return the names of the genotypes that come with the project."""
    return sorted(path.stem for path in _FOLDER.glob("*.json"))


def load_genotype(name: str) -> FPNGenotype | HeadGenotype:
    """Return a genotype by the name of one that comes with the project, or by the path of a JSON file.

    Raises:
        UserError: no such name or file, or it holds no genotype.
    """
    return load_kind(name, _FOLDER, {"fpn": FPNGenotype.from_json, "head": HeadGenotype.from_json})


def save_genotype(genotype: FPNGenotype | HeadGenotype, path: str | os.PathLike) -> None:
    """Write a genotype as JSON, beside its place first."""
    write_genotype(genotype.to_json(), path)

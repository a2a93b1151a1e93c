"""What a search finds: the structure of a cell, and the path of strides through the network; in JSON.

The states of a cell are ``previous`` (0, the output of the cell before), ``before`` (1, that of the cell before that),
then ``block1``, ``block2`` and so on. The level of a layer is 0 to 3, for a stride of 4 to 32.
"""

import dataclasses
import os
from pathlib import Path
from typing import Any

from adet_ext.errors import UserError
from adet_ext.utils.genotypes import (
    check_keys,
    check_one_of,
    entries_of,
    load_kind,
    pair_of,
    shortened,
    write_genotype,
)

from .operations import OPERATIONS

__all__ = ["LEVELS", "Block", "Genotype", "load_genotype", "save_genotype", "state_name"]

LEVELS = 4
_FOLDER = Path(__file__).resolve().parent / "architectures"
_OUTSIDE = ("previous", "before")


def state_name(number: int) -> str:
    """Return the name of a cell's state."""
    return _OUTSIDE[number] if number < len(_OUTSIDE) else f"block{number - 1}"


@dataclasses.dataclass(frozen=True)
class Block:
    """The sum of two operations, each on a state with a smaller number."""

    inputs: tuple[int, int]
    operations: tuple[str, str]


@dataclasses.dataclass(frozen=True)
class Genotype:
    """The blocks of every cell, and the level of each layer.

    Raises:
        UserError: an input is not before its block, an operation is unknown, or the path jumps.
    """

    blocks: tuple[Block, ...]
    path: tuple[int, ...]

    def __post_init__(self) -> None:
        for i, block in enumerate(self.blocks):
            for state in block.inputs:
                if not 0 <= state < i + len(_OUTSIDE):
                    last = state_name(i + 1)
                    raise UserError(f"block {i + 1}: an input must be previous to {last}; got state {state}")
            for name in block.operations:
                check_one_of(f"block {i + 1}: an operation", name, OPERATIONS)
        before = 0
        for layer, level in enumerate(self.path, 1):
            if type(level) is not int or not 0 <= level < LEVELS or abs(level - before) > 1:
                raise UserError(
                    f"layer {layer} of the path must have a level of 0 to {LEVELS - 1}, at most one from the level "
                    f"before it, {before}; got {shortened(level)}"
                )
            before = level
        if not self.blocks or not self.path:
            raise UserError("a genotype must have a block and a layer, or more; got none")

    def to_json(self) -> dict[str, Any]:
        """Return the genotype as a value for JSON."""
        blocks = [
            {"inputs": [state_name(state) for state in block.inputs], "operations": list(block.operations)}
            for block in self.blocks
        ]
        return {"kind": "auto_deeplab", "blocks": blocks, "path": list(self.path)}

    @classmethod
    def from_json(cls, value: Any) -> "Genotype":
        """Return the genotype of a JSON value; raise UserError where it is none."""
        blocks = []
        entries = entries_of(value, "blocks", "a genotype")
        for i, entry in enumerate(entries):
            where = f"block {i + 1}"
            check_keys(where, entry, "inputs", "operations")
            inputs, operations = (pair_of(where, name, entry[name]) for name in ("inputs", "operations"))
            states = [state_name(number) for number in range(i + len(_OUTSIDE))]
            for name in inputs:
                check_one_of(f"{where}: an input", name, states)
            blocks.append(Block(tuple(states.index(name) for name in inputs), operations))
        return cls(tuple(blocks), tuple(entries_of(value, "path", "a genotype")))


def load_genotype(name: str) -> Genotype:
    """Return the genotype that comes with the project under this name, or the one in a JSON file.

    Raises:
        UserError: no such name or file, or it holds no genotype.
    """
    return load_kind(name, _FOLDER, {"auto_deeplab": Genotype.from_json})


def save_genotype(genotype: Genotype, path: str | os.PathLike) -> None:
    """Write a genotype as JSON, beside its place first."""
    write_genotype(genotype.to_json(), path)

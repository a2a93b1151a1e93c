"""The genotype of a static decoder (nas-segm-pytorch): what it is made of, without its width and weights."""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

from adet_ext.errors import UserError
from adet_ext.utils.genotypes import check_keys, check_one_of, entries_of, pair_of, shortened

from .operations import DECODER_OPERATIONS

__all__ = ["LAYERS", "DecoderGenotype", "Sum"]

# The encoder's features at strides 4, 8, 16 and 32 (thesis 6.3.1).
LAYERS = ("layer1", "layer2", "layer3", "layer4")


@dataclasses.dataclass(frozen=True)
class Sum:
    """An entry of a decoder's cell: an operation on each of two nodes, and the sum of both."""

    inputs: tuple[int, int]
    operations: tuple[str, str]


@dataclasses.dataclass(frozen=True)
class DecoderGenotype:
    """A static decoder: its cell, and the pairs of features that its blocks run the cell on (nas-segm-pytorch).

    The nodes of the cell are its input, 0; the result of ``first`` on it, 1; and for entry e, counted from 0, the two
    results, 2 + 3 e and 3 + 3 e, and their sum, 4 + 3 e. Entries take any earlier nodes. Features 0 to 3 are the
    encoder's, block b gives 4 + b; blocks take any earlier features.

    Raises:
        UserError: an entry or block takes what is not there yet, or names an unknown operation.
    """

    kind: ClassVar[str] = "decoder"

    first: str
    sums: tuple[Sum, ...]
    blocks: tuple[tuple[int, int], ...]

    def __post_init__(self):
        check_one_of("the first operation of a decoder's cell", self.first, DECODER_OPERATIONS)
        for e, entry in enumerate(self.sums):
            where = f"sum {e + 1} of a decoder's cell"
            for name in entry.operations:
                check_one_of(f"{where}: an operation", name, DECODER_OPERATIONS)
            _check_numbers(f"{where}: an input", entry.inputs, 2 + 3 * e)
        if not self.blocks:
            raise UserError("a decoder must have one block or more; got none")
        for b, pair in enumerate(self.blocks):
            _check_numbers(f"block {b + 1} of a decoder: an input", pair, len(LAYERS) + b)

    @property
    def outputs(self) -> tuple[int, ...]:
        """The nodes of the cell that are added up: the first result and the sums that no entry takes."""
        taken = {number for entry in self.sums for number in entry.inputs}
        return tuple(n for n in (1, *(4 + 3 * e for e in range(len(self.sums)))) if n not in taken)

    @property
    def collected(self) -> tuple[int, ...]:
        """The features that become the decoder's output: those of the blocks that no block takes."""
        taken = {number for pair in self.blocks for number in pair}
        return tuple(n for n in range(len(LAYERS), len(LAYERS) + len(self.blocks)) if n not in taken)

    @classmethod
    def from_numbers(cls, cell: Sequence[int | Sequence[int]], blocks: Sequence[Sequence[int]]) -> "DecoderGenotype":
        """Return the genotype of numbers: [op, [input, input, op, op], ...] and [[input, input], ...]."""
        sums = [Sum((a, b), (DECODER_OPERATIONS[p], DECODER_OPERATIONS[q])) for a, b, p, q in cell[1:]]
        return cls(DECODER_OPERATIONS[cell[0]], tuple(sums), tuple(map(tuple, blocks)))

    def to_json(self) -> dict[str, Any]:
        """Return the genotype as a JSON value."""
        sums = [{"inputs": list(entry.inputs), "operations": list(entry.operations)} for entry in self.sums]
        return {"kind": self.kind, "first": self.first, "sums": sums, "blocks": [list(pair) for pair in self.blocks]}

    @classmethod
    def from_json(cls, value: Any) -> "DecoderGenotype":
        """Return the genotype of a JSON value; raise UserError where it is none."""
        sums = []
        for e, entry in enumerate(entries_of(value, "sums", "a decoder genotype")):
            where = f"sum {e + 1} of a decoder's cell"
            check_keys(where, entry, "inputs", "operations")
            sums.append(Sum(_numbers(where, entry["inputs"]), pair_of(where, "operations", entry["operations"])))
        pairs = [_numbers("a block of a decoder", pair) for pair in entries_of(value, "blocks", "a decoder genotype")]
        return cls(value.get("first"), tuple(sums), tuple(pairs))


def _numbers(where: str, value: Any) -> tuple[int, int]:
    whole = isinstance(value, list) and all(isinstance(x, int) and not isinstance(x, bool) for x in value)
    if not whole or len(value) != 2:
        raise UserError(f"{where} must have two numbers as inputs; got {shortened(value)}")
    return tuple(value)


def _check_numbers(what: str, numbers: Sequence[int], count: int) -> None:
    for number in numbers:
        if not 0 <= number < count:
            raise UserError(f"{what} must be 0 to {count - 1}; got {number}")

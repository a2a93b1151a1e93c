"""What a search finds: the structure of a module that makes bases from the levels of a pyramid; in JSON.

Levels are numbered from the finest, 0, to the coarsest, L - 1. From the coarsest on, each level passes a convolution,
gets what coarser levels add to it, passes another convolution, and is enlarged and added to a finer one. What level 0
gives passes a tower, is enlarged by two, and passes a last convolution.
"""

import dataclasses
import os
from pathlib import Path
from typing import Any

from adet_ext.errors import UserError
from adet_ext.utils.genotypes import check_keys, check_one_of, entries_of, load_kind, shortened, write_genotype

__all__ = ["FACTORS", "INPUTS", "OPERATIONS", "SKIP", "TOWER", "UPSAMPLINGS", "Level", "MaskGenotype"]
__all__ += ["load_genotype", "save_genotype"]

_FOLDER = Path(__file__).resolve().parent / "architectures"
_KIND = "mask_module"

INPUTS = ("conv_1x1", "conv_3x3", "sep_3x3")
OPERATIONS = (*INPUTS, "sep_5x5", "atrous_3x3")
SKIP = "skip"
# Where dynamic factors enter a convolution (thesis equation 5.4): A before it, B after it.
FACTORS = ("none", "a", "b", "ab")
# "resize" to the size of the finer map, or "aligned" with strided convolutions (Table 5.5).
UPSAMPLINGS = ("resize", "aligned")
TOWER = 3  # convolutions at most


@dataclasses.dataclass(frozen=True)
class Level:
    """The convolutions of a level, before and after the sum, and where dynamic factors enter the second."""

    input: str
    merge: str
    factors: str


@dataclasses.dataclass(frozen=True)
class MaskGenotype:
    """A module.

    Attributes:
        width: channels of all maps.
        upsampling: of :data:`UPSAMPLINGS`.
        levels: from the finest.
        joins: for level 1 and each coarser one, the finer level that it is added to.
        tower: up to :data:`TOWER` convolutions on what level 0 gives.
        last: the convolution after enlarging by two, or "skip".

    Raises:
        UserError: a choice is unknown, a level joins none that is finer, or there are factors without a convolution.
    """

    width: int
    upsampling: str
    levels: tuple[Level, ...]
    joins: tuple[int, ...]
    tower: tuple[str, ...]
    last: str

    def __post_init__(self) -> None:
        if type(self.width) is not int or self.width < 1:
            raise UserError(f"the width must be a whole number, 1 or more; got {shortened(self.width)}")
        check_one_of("the upsampling", self.upsampling, UPSAMPLINGS)
        for i, level in enumerate(self.levels):
            check_one_of(f"level {i}: the input", level.input, INPUTS)
            check_one_of(f"level {i}: the merge", level.merge, (SKIP, *OPERATIONS))
            check_one_of(f"level {i}: the factors", level.factors, FACTORS)
            if level.merge == SKIP and level.factors != "none":
                raise UserError(f"level {i}: the factors must be none without a convolution; got {level.factors}")
        if len(self.joins) != len(self.levels) - 1:
            raise UserError(f"joins must have {len(self.levels) - 1} entries, for the levels from 1; got {self.joins}")
        for i, target in enumerate(self.joins, 1):
            if type(target) is not int or not 0 <= target < i:
                raise UserError(f"level {i}: it must join a level of 0 to {i - 1}; got {shortened(target)}")
        if len(self.tower) > TOWER:
            raise UserError(f"the tower must have {TOWER} convolutions at most; got {len(self.tower)}")
        for name in self.tower:
            check_one_of("a convolution of the tower", name, OPERATIONS)
        check_one_of("the last convolution", self.last, (SKIP, *OPERATIONS))

    def to_json(self) -> dict[str, Any]:
        """Return the genotype as a value for JSON."""
        found = {"kind": _KIND, **dataclasses.asdict(self)}
        return {key: list(value) if isinstance(value, tuple) else value for key, value in found.items()}

    @classmethod
    def from_json(cls, value: Any) -> "MaskGenotype":
        """Return the genotype of a JSON value; raise UserError where it is none."""
        check_keys("a module", value, "kind", *(field.name for field in dataclasses.fields(cls)))
        levels = []
        for i, entry in enumerate(entries_of(value, "levels", "a module")):
            check_keys(f"level {i}", entry, "input", "merge", "factors")
            levels.append(Level(**entry))
        for key in ("joins", "tower"):
            if not isinstance(value[key], list):
                raise UserError(f"{key} must be a list; got {shortened(value[key])}")
        chains = {"levels": tuple(levels), "joins": tuple(value["joins"]), "tower": tuple(value["tower"])}
        return cls(width=value["width"], upsampling=value["upsampling"], last=value["last"], **chains)


def load_genotype(name: str) -> MaskGenotype:
    """Return the module that comes with the project under this name, or the one in a JSON file.

    Raises:
        UserError: no such name or file, or it holds no module.
    """
    return load_kind(name, _FOLDER, {_KIND: MaskGenotype.from_json})


def save_genotype(genotype: MaskGenotype, path: str | os.PathLike) -> None:
    """Write a genotype as JSON, beside its place first."""
    write_genotype(genotype.to_json(), path)

"""What a search finds: a choice for every searched layer; in JSON.

The parts of an architecture, in the order of a token list: the blocks of the backbone, the layers of the mask head, the
layers of the semantic subnet, the attention modules from foreground to background, those from background to foreground.
"""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from adet_ext.errors import UserError
from adet_ext.utils.genotypes import check_keys, check_one_of, load_kind, shortened, write_genotype

__all__ = ["BLOCKS", "HEAD_LAYERS", "PARTS", "REDUCTIONS", "Architecture", "load_architecture", "save_architecture"]

_FOLDER = Path(__file__).resolve().parent / "architectures"
_KIND = "auto_panoptic"

BLOCKS = ("3x3", "5x5", "7x7", "xception")
HEAD_LAYERS = ("DW3", "DW5", "DF3", "DF5", "AT3", "AT5")
REDUCTIONS = ("4", "8", "16")

# The choices of each part.
PARTS: Mapping[str, tuple[str, ...]] = {
    "backbone": BLOCKS,
    "mask_head": HEAD_LAYERS,
    "semantic_subnet": HEAD_LAYERS,
    "foreground_to_background": REDUCTIONS,
    "background_to_foreground": REDUCTIONS,
}


@dataclasses.dataclass(frozen=True)
class Architecture:
    """The choices of each part, from the images to the outputs.

    Raises:
        UserError: a choice is unknown, or a part has none.
    """

    backbone: tuple[str, ...]
    mask_head: tuple[str, ...]
    semantic_subnet: tuple[str, ...]
    foreground_to_background: tuple[str, ...]
    background_to_foreground: tuple[str, ...]

    def __post_init__(self) -> None:
        for part, choices in PARTS.items():
            values = getattr(self, part)
            if not values:
                raise UserError(f"{part} must have a layer or more; got none")
            for place, value in enumerate(values):
                check_one_of(f"{part}, layer {place + 1}", value, choices)

    def sizes(self) -> dict[str, int]:
        """Return the number of layers of each part."""
        return {part: len(getattr(self, part)) for part in PARTS}

    def choices(self) -> tuple[str, ...]:
        """Return the choices of all parts, one after the other."""
        return tuple(choice for part in PARTS for choice in getattr(self, part))

    @classmethod
    def from_choices(cls, choices: Sequence[str], sizes: Mapping[str, int]) -> "Architecture":
        """Return the architecture of :meth:`choices`, whose parts have ``sizes``."""
        found, start = {}, 0
        for part in PARTS:
            found[part] = tuple(choices[start : start + sizes[part]])
            start += sizes[part]
        return cls(**found)

    def to_json(self) -> dict[str, Any]:
        """Return the architecture as a value for JSON."""
        return {"kind": _KIND, **{part: list(getattr(self, part)) for part in PARTS}}

    @classmethod
    def from_json(cls, value: Any) -> "Architecture":
        """Return the architecture of a JSON value; raise UserError where it is none."""
        check_keys("an architecture", value, "kind", *PARTS)
        for part in PARTS:
            if not isinstance(value[part], list):
                raise UserError(f"{part} must be a list of choices; got {shortened(value[part])}")
        return cls(**{part: tuple(value[part]) for part in PARTS})


def load_architecture(name: str) -> Architecture:
    """Return the architecture that comes with the project under this name, or the one in a JSON file.

    Raises:
        UserError: no such name or file, or it holds no architecture.
    """
    return load_kind(name, _FOLDER, {_KIND: Architecture.from_json})


def save_architecture(architecture: Architecture, path: str | os.PathLike) -> None:
    """Write an architecture as JSON, beside its place first."""
    write_genotype(architecture.to_json(), path)

"""What an exported file says of itself: a block of JSON beside the graph.

H x W the frame of the network, in pixels.
"""

import dataclasses
import json
from dataclasses import dataclass

from .. import __version__
from ..errors import UserError

__all__ = ["KEY", "Card"]

KEY = "adet_ext"  # of the block, among a file's metadata
_FORM = 1  # of the block and of the tensors in and out; raised where files can no longer be read


@dataclass(frozen=True)
class Card:
    """How to feed a file and what comes out of it.

    Attributes:
        architecture: MODEL.META_ARCHITECTURE.
        config: the whole config, as YAML.
        classes: their names, in the order of their numbers; None where they are not known.
        num_classes: how many there are.
        frame: (H, W) of the images, without what is dynamic.
        dynamic: whether batch and frame may be others.
        batch: images in one pass.
        divisibility: what frames must be multiples of.
        channels: "BGR" or "RGB".
        mean, std: of the normalization, which the graph does itself.
        source: (height, width) of the images where the graph resizes them, else None.
        map_stride: of panoptic maps; None where there are none.
        outputs: names of the results, in their order.
        operators: names of this package's operators in the graph.
        pasted: whether masks are at the size of the images.
        precision: "float32", "float16" or "int8".
        version: of the package that wrote the file.
        form: of this block.
    """

    architecture: str
    config: str
    classes: list[str] | None
    num_classes: int
    frame: tuple[int, int]
    dynamic: bool
    batch: int
    divisibility: int
    channels: str
    mean: list[float]
    std: list[float]
    source: tuple[int, int] | None
    map_stride: int | None
    outputs: list[str]
    operators: list[str] = dataclasses.field(default_factory=list)
    pasted: bool = False
    precision: str = "float32"
    version: str = __version__
    form: int = _FORM

    def dumps(self) -> str:
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def loads(cls, text: str | None, path: str) -> "Card":
        """Read the block of the file at ``path``.

        Raises:
            UserError: there is none, or it is of another version.
        """
        if not text:
            raise UserError(f"{path} must be a file of python -m adet_ext export; it has no block {KEY!r}")
        try:
            values = json.loads(text)
            form, version = values["form"], values["version"]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path} has a damaged block {KEY!r}; export the model again") from error
        if form != _FORM:
            raise UserError(
                f"{path} is of adet_ext {version}, which writes files of form {form}; this is adet_ext {__version__}, "
                f"which reads form {_FORM}. Export the model again"
            )
        try:
            card = cls(**values)
        except TypeError as error:
            raise UserError(f"{path} has a damaged block {KEY!r}; export the model again") from error
        source = tuple(card.source) if card.source else None
        return dataclasses.replace(card, frame=tuple(card.frame), source=source)

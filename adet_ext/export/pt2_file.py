"""Files of torch.export, ``.pt2``: run by PyTorch without the Python code of the model."""

import warnings

import torch
from torch.export import ExportedProgram

from ..errors import UserError, one_line
from ..layers.extension import native_operators
from .card import KEY, Card
from .exported import Runner

__all__ = ["Pt2Runner", "check_operators", "write_pt2"]

_ENTRY = f"{KEY}.json"


def write_pt2(program: ExportedProgram, card: Card, path: str) -> None:
    """Write a program with its card to ``path``."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about views of weights, which are handled
        torch.export.save(program, path, extra_files={_ENTRY: card.dumps()})


def check_operators(card: Card, path: str) -> None:
    """Raise UserError unless the operators of this package that a file needs are there."""
    missing = sorted(set(card.operators) - set(native_operators()) - {"nms_mask_reference"})
    if missing:
        raise UserError(
            f"{path} needs the operators {', '.join(missing)}, which are not compiled here (python -m adet_ext env "
            "says why); export it with --portable"
        )


class Pt2Runner(Runner):
    """A file open in PyTorch, interpreted operator by operator."""

    def __init__(self, path: str):
        """
        Raises:
            UserError: the file is damaged, not one of ours, or needs operators that are not compiled here.
        """
        files = {_ENTRY: ""}
        try:
            program = torch.export.load(path, extra_files=files)
        except Exception as error:  # zip files, pickles and operators each have their own
            check_operators(Card.loads(_text(files), path), path) if files[_ENTRY] else None
            raise UserError(f"{path} cannot be opened: {one_line(error)}") from error
        self.card = Card.loads(_text(files), path)
        check_operators(self.card, path)
        self.module = program.module(check_guards=False)

    def __call__(self, images: torch.Tensor, sizes: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        with torch.inference_mode():
            return self.module(images) if self.card.source else self.module(images, sizes)


def _text(files: dict) -> str:
    text = files[_ENTRY]
    return text.decode() if isinstance(text, bytes) else text

"""``convert``: make a SmalMask2's checkpoint from a shared SmalMask's, or the reverse; the masks stay the same."""

import argparse
import os
from collections.abc import Sequence

import torch

from ..d2.checkpoint import read_checkpoint
from ..errors import UserError
from ..modeling.mask.convert import convert_smalmask
from ..utils.files import make_folder, written_beside

__all__ = ["build_parser", "main"]


def build_parser() -> argparse.ArgumentParser:
    """The command line of ``convert``."""
    parser = argparse.ArgumentParser(
        description="Make a SmalMask2's checkpoint from that of a SmalMask with RoIPred on the shared tower, or the "
        "reverse. Parameters are renamed and reshaped, none changes; training state is left out."
    )
    parser.add_argument("source", metavar="FROM", help="a checkpoint: .pth, .pkl or .safetensors")
    parser.add_argument("target", metavar="TO", help="the .pth file to write")
    parser.add_argument("--overwrite", action="store_true", help="replace TO if it exists")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Convert and say what was made."""
    arguments = build_parser().parse_args(argv)
    source, target = arguments.source, arguments.target
    if not os.path.isfile(source):
        raise UserError(f"there is no checkpoint {source}")
    if not target.endswith(".pth"):
        raise UserError(f"{target}: name a file that ends in .pth")
    if os.path.exists(target) and not arguments.overwrite:
        raise UserError(f"{target} exists; --overwrite replaces it")
    try:
        state = {name: torch.as_tensor(value) for name, value in read_checkpoint(source)["model"].items()}
        state, model = convert_smalmask(state)
    except ValueError as error:
        raise UserError(f"{source} cannot be converted: {error}") from error
    make_folder(os.path.dirname(target))
    with written_beside(target) as beside:
        torch.save({"model": state}, beside)
    print(f"wrote {target}: MODEL.META_ARCHITECTURE {model}" + (" MODEL.SMALMASK.TOWER shared" * (model == "SmalMask")))
    return 0

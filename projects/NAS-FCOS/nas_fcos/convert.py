"""``convert``: make a checkpoint for this project of a published NAS-FCOS one, or of torchvision's MobileNetV2."""

import argparse
import os
from collections.abc import Sequence

import torch

from adet_ext.d2.checkpoint import read_checkpoint
from adet_ext.errors import UserError
from adet_ext.utils.files import make_folder, written_beside

from .checkpoint import from_public, from_torchvision_mobilenet

__all__ = ["build_parser", "main"]


def build_parser() -> argparse.ArgumentParser:
    """Return the command line of ``convert``."""
    parser = argparse.ArgumentParser(prog="python -m nas_fcos convert", description=__doc__)
    parser.add_argument("source", metavar="FROM", help="a checkpoint: .pth, .pkl or .safetensors")
    parser.add_argument("target", metavar="TO", help="the .pth file to write")
    parser.add_argument("--mobilenet", action="store_true", help="FROM is torchvision's mobilenet_v2")
    parser.add_argument("--overwrite", action="store_true", help="replace TO if it exists")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Convert and say what was made."""
    arguments = build_parser().parse_args(argv)
    source, target = arguments.source, arguments.target
    if not os.path.isfile(source):
        raise UserError(f"there is no checkpoint {source}; give the path of a file")
    if not target.endswith(".pth"):
        raise UserError(f"TO must end in .pth; got {target}")
    if os.path.exists(target) and not arguments.overwrite:
        raise UserError(f"{target} exists; --overwrite replaces it")
    try:
        state = {name: torch.as_tensor(value) for name, value in read_checkpoint(source)["model"].items()}
        state = (from_torchvision_mobilenet if arguments.mobilenet else from_public)(state)
    except (ValueError, UserError) as error:
        raise UserError(f"{source} cannot be converted: {error}") from error
    make_folder(os.path.dirname(target))
    with written_beside(target) as beside:
        torch.save({"model": state}, beside)
    print(f"wrote {target}: {len(state)} tensors")
    return 0

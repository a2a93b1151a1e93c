"""``convert``: make a SmalMask2's checkpoint from a shared SmalMask's, or the reverse; the masks stay the same."""

import argparse
from collections.abc import Sequence

from ..engine.convert import convert_checkpoint
from ..modeling.mask.convert import convert_smalmask

__all__ = ["add_arguments", "build_parser", "main"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of all commands that convert a checkpoint."""
    parser.add_argument("source", metavar="FROM", help="a checkpoint: .pth, .pkl or .safetensors")
    parser.add_argument("target", metavar="TO", help="the .pth file to write")
    parser.add_argument("--overwrite", action="store_true", help="replace TO if it exists")


def build_parser() -> argparse.ArgumentParser:
    """The command line of ``convert``."""
    parser = argparse.ArgumentParser(
        description="Make a SmalMask2's checkpoint from that of a SmalMask with RoIPred on the shared tower, or the "
        "reverse. Parameters are renamed and reshaped, none changes; training state is left out."
    )
    add_arguments(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Convert and say what was made."""
    arguments = build_parser().parse_args(argv)
    model = ""

    def convert(state):
        nonlocal model
        state, model = convert_smalmask(state)
        return state

    convert_checkpoint(arguments.source, arguments.target, convert, overwrite=arguments.overwrite)
    tower = " MODEL.SMALMASK.TOWER shared" if model == "SmalMask" else ""
    print(f"wrote {arguments.target}: MODEL.META_ARCHITECTURE {model}{tower}")
    return 0

"""``convert``: make a checkpoint for this project of a published NAS-FCOS one, or of torchvision's MobileNetV2."""

import argparse
from collections.abc import Sequence

from adet_ext.cli.convert import add_arguments
from adet_ext.engine.convert import convert_checkpoint

from .checkpoint import from_public, from_torchvision_mobilenet

__all__ = ["build_parser", "main"]


def build_parser() -> argparse.ArgumentParser:
    """Return the command line of ``convert``."""
    parser = argparse.ArgumentParser(prog="python -m nas_fcos convert", description=__doc__)
    add_arguments(parser)
    parser.add_argument("--mobilenet", action="store_true", help="FROM is torchvision's mobilenet_v2")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Convert and say what was made."""
    arguments = build_parser().parse_args(argv)
    convert = from_torchvision_mobilenet if arguments.mobilenet else from_public
    count = convert_checkpoint(arguments.source, arguments.target, convert, overwrite=arguments.overwrite)
    print(f"wrote {arguments.target}: {count} tensors")
    return 0

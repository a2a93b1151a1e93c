"""``export``: write a model to one file for other runtimes; ``demo``, ``eval`` and ``bench`` take it as a config."""

import argparse
import os
from collections.abc import Sequence

from ..config import load_config
from ..d2.modeling import build_model
from ..engine.checkpoint import AdetCheckpointer
from ..errors import UserError, one_line
from ..export.files import FORMATS, PRECISIONS, Options, check_options, export_model
from ..export.web import check_web, export_web
from ..utils.image_io import read_image
from .arguments import parse_with_overrides
from .inputs import find_images

__all__ = ["build_parser", "main"]

_WEB = "web"


def build_parser() -> argparse.ArgumentParser:
    """The command line of ``export``."""
    parser = argparse.ArgumentParser(
        description="Write a model, with normalization and suppression, to one file: uint8 images in, tensors of fixed "
        "size out. 'demo', 'eval' and 'bench' take the file as --config-file."
    )
    parser.add_argument("--config-file", required=True, metavar="FILE", help="a YAML file, or a packaged config's name")
    parser.add_argument(
        "--format",
        choices=sorted([*FORMATS, _WEB]),
        default="onnx",
        help="onnx; pt2 of PyTorch; aoti, a .pt2 compiled to machine code; web, a folder with a page (onnx)",
    )
    parser.add_argument(
        "--size", type=int, nargs=2, default=(800, 1088), metavar=("H", "W"), help="the network's input (800 1088)"
    )
    parser.add_argument(
        "--output", required=True, metavar="FILE", help="the .onnx or .pt2 file, or the folder, to write"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the file if it exists")
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="float32",
        help="of an ONNX file: weights stored in float16, or convolutions in int8 (float32)",
    )
    parser.add_argument(
        "--calibrate", nargs="+", default=[], metavar="PATH", help="images like those to come, some tens, for int8"
    )
    parser.add_argument("--batch", type=int, default=1, metavar="N", help="images in one pass (1)")
    parser.add_argument("--dynamic", action="store_true", help="let the number and the size of images vary")
    parser.add_argument(
        "--source", type=int, nargs=2, metavar=("H", "W"), help="resize images of this one size inside the graph"
    )
    parser.add_argument("--paste", action="store_true", help="masks at the size of the images, not in their boxes")
    parser.add_argument(
        "--portable", action="store_true", help="pt2 without this package's operators, but for suppression (slower)"
    )
    parser.add_argument(
        "--onnxruntime-web", metavar="DIR", help="of --format web: the unpacked npm package onnxruntime-web"
    )
    parser.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="config overrides, at the end")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Export and say what was made.

    Raises:
        UserError: the model, the size or an option cannot be exported. Nothing was written.
    """
    arguments = parse_with_overrides(build_parser(), argv)
    options = Options(
        format=arguments.format,
        size=tuple(arguments.size),
        batch=arguments.batch,
        dynamic=arguments.dynamic,
        source=tuple(arguments.source) if arguments.source else None,
        paste=arguments.paste,
        portable=arguments.portable,
        precision=arguments.precision,
    )
    library = arguments.onnxruntime_web
    if options.format == _WEB:
        check_web(options, arguments.output, library, arguments.overwrite)
    elif library:
        raise UserError(f"--onnxruntime-web must come with --format web; got {options.format}")
    else:
        check_options(options, arguments.output, arguments.overwrite)
    paths = find_images(arguments.calibrate)
    cfg = load_config(arguments.config_file, [*arguments.opts, "MODEL.DEVICE", "cpu"])
    if not cfg.MODEL.WEIGHTS:
        raise UserError(f"{arguments.config_file} names no weights; add MODEL.WEIGHTS FILE at the end of the command")
    try:
        model = build_model(cfg)
    except (ValueError, KeyError, AssertionError) as error:  # constructors, of what does not fit together
        raise UserError(one_line(error)) from error
    checkpointer = AdetCheckpointer(model)
    checkpointer.load_to_predict(cfg.MODEL.WEIGHTS)
    pictures = [read_image(path)[:, :, :: -1 if cfg.INPUT.FORMAT == "RGB" else 1].copy() for path in paths]
    last = (checkpointer.loaded_classes, arguments.overwrite, pictures)
    if options.format == _WEB:
        card = export_web(cfg, model, arguments.output, options, library, *last)
        path = os.path.join(arguments.output, "model.onnx")
    else:
        path = arguments.output
        card = export_model(cfg, model, path, options, *last)
    size = os.path.getsize(path) / 2**20
    frame = "any size" if card.dynamic else f"{card.frame[0]} x {card.frame[1]}"
    print(f"wrote {path}: {card.architecture}, {frame}, {size:.1f} MiB; results {', '.join(card.outputs)}")
    if options.format == _WEB:
        print(f"show it with: python -m http.server --directory {arguments.output}, then open http://localhost:8000")
    return 0

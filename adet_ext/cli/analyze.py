"""Parameters, multiply-adds and activations of a model at a given input size, per module."""

import argparse
import json
from collections.abc import Sequence

from ..benchmark.analysis import analyze, config_size
from ..benchmark.cost import Cost
from ..config import load_config
from ..errors import UserError
from ..utils.table import text_table
from .arguments import parse_with_overrides

__all__ = ["main"]

NOTE = "multiply-adds of convolutions and matrix products (twice as many floating-point operations); one image"


def build_parser() -> argparse.ArgumentParser:
    """Return the command line of analyze."""
    parser = argparse.ArgumentParser(description=f"Count parameters, activations, and {NOTE}.")
    parser.add_argument("--config-file", required=True, metavar="FILE", help="a YAML file, or a packaged config's name")
    parser.add_argument("--height", type=int, help="of the image; the config's test size if left out")
    parser.add_argument("--width", type=int, help="of the image; the config's test size if left out")
    parser.add_argument("--depth", type=int, default=2, help="how many names deep the table goes (2)")
    parser.add_argument(
        "--operations",
        action="store_true",
        help="add parameters that are trained, and operations as the counter ptflops has them: multiply-adds, biases, "
        "batch norms, ReLU modules and max pooling",
    )
    parser.add_argument("--json", action="store_true", help="as JSON")
    parser.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="config overrides, at the end")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table, or JSON."""
    arguments = parse_with_overrides(build_parser(), argv)
    cfg = load_config(arguments.config_file, arguments.opts)
    height, width = config_size(cfg)
    height, width = arguments.height or height, arguments.width or width
    if min(height, width) < 32:
        raise UserError(f"--height and --width must be 32 or more; got {height} x {width}")
    cost = analyze(cfg, height, width)
    if arguments.json:
        report = {
            "config": arguments.config_file,
            "overrides": arguments.opts,
            "height": height,
            "width": width,
            "parameters": cost.parameters[""],
            "multiply_adds": cost.multiply_adds[""],
            "activations": cost.activations[""],
            "trainable": cost.trainable[""],
            "operations": cost.operations(),
            "modules": [
                dict(zip(("name", "class", "parameters", "multiply_adds", "activations"), row))
                for row in cost.table(arguments.depth)
            ],
        }
        print(json.dumps(report, indent=2))
    else:
        print(render(cost, arguments.depth, arguments.operations))
        print(f"\n{height} x {width}, {cfg.MODEL.FCOS.POST_NMS_TOPK_TEST} detections; {NOTE}")
    return 0


def render(cost: Cost, depth: int, operations: bool = False) -> str:
    """Return the table as text: indented by depth, numbers in millions and thousands of millions.

    ``operations`` adds the parameters that are trained and :meth:`Cost.operations`.
    """
    rows = []
    for name, kind, parameters, multiply_adds, activations in cost.table(depth):
        label = "  " * (name.count(".") + bool(name)) + (name.rpartition(".")[2] or "model")
        numbers = [parameters / 1e6, multiply_adds / 1e9, activations / 1e6]
        numbers += [cost.trainable[name] / 1e6, cost.operations(name) / 1e9] * operations
        rows.append((f"{label} ({kind})", *(f"{number:.3f}" for number in numbers)))
    head = ["module", "parameters (M)", "multiply-adds (G)", "activations (M)"]
    head += ["trainable (M)", "operations (G)"] * operations
    return text_table([head, *rows])

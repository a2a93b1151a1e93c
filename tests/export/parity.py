"""Compare exported files with their models, for all families, formats and options: minutes, and so not in the suite.

    python -m tests.export.parity [--format onnx] [--images 20] [--dynamic] [--openvino] [FAMILY ...]

Models are those of tiny.py; images are noise of several scales. Prints the largest difference of each result: of masks
as they are, of others relative to numbers above one. Fails above 1e-4.
"""

import argparse
import os
import sys
import tempfile

import torch
from torch.nn import functional as F

from adet_ext.export.files import OPENVINO, Options, export_model, open_runner
from adet_ext.export.wrapper import TensorModel

from .tiny import FAMILIES, SIZE, build, config

LIMIT = 1e-4


def noise(count: int, size: tuple[int, int], seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return images (count, 3, H, W) uint8 with details of several sizes, and sizes (count, 2) up to the frame."""
    generator = torch.Generator().manual_seed(seed)
    layers = []
    for cells in (2, 8, 32):
        small = torch.rand(count, 3, cells, cells, generator=generator)
        layers.append(F.interpolate(small, size, mode="bilinear"))
    image = (sum(layers) / len(layers) * 255).to(torch.uint8)
    least = torch.rand(count, 2, generator=generator) * 0.4 + 0.6
    return image, (least * torch.tensor(size)).long()


def differences(model: TensorModel, path: str, arguments: argparse.Namespace) -> dict[str, float]:
    """Return the largest difference of each result over the images."""
    runner, most = open_runner(path), {}
    for seed in range(arguments.images):
        size = (SIZE[0] + 32 * (seed % 3), SIZE[1] + 32 * (seed % 2)) if arguments.dynamic else SIZE
        inputs = noise(1 + seed % 2 if arguments.dynamic else 1, size, seed)
        with torch.no_grad():
            expected = model(*inputs)
        found, valid = runner(*inputs), expected["valid"]
        if not torch.equal(found["valid"], valid):
            return {"valid": float("inf")}
        for name, value in expected.items():
            mine, theirs = (x[valid] if x.shape[:2] == valid.shape else x for x in (found[name], value))
            gap = (mine.double() - theirs.double()).abs()
            gap = gap / theirs.double().abs().clamp(min=1) if name != "masks" else gap
            most[name] = max(most.get(name, 0.0), float(gap.max()))
    return most


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("families", nargs="*", default=list(FAMILIES))
    parser.add_argument("--format", choices=("onnx", "pt2"), default="onnx")
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--images", type=int, default=20)
    parser.add_argument("--dynamic", action="store_true")
    parser.add_argument("--openvino", action="store_true", help="read the ONNX file with OpenVINO")
    arguments = parser.parse_args()
    failed = 0
    for family in arguments.families:
        model = build(family)
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, f"model.{arguments.format}")
            options = Options(arguments.format, SIZE, dynamic=arguments.dynamic, precision=arguments.precision)
            export_model(config(family), model, path, options)
            found = differences(TensorModel(model), f"{OPENVINO if arguments.openvino else ''}{path}", arguments)
        bad = max(found.values()) > LIMIT
        failed += bad
        print(family, "differs" if bad else "equal", {k: f"{v:.1e}" for k, v in found.items()}, flush=True)
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main())

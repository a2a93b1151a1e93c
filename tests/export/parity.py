"""Compare exported files with their models, for all families, formats and options: minutes, and so not in the suite.

    python -m tests.export.parity [FAMILY ...] [--format onnx pt2] [--pictures FOLDER] [--images 20] [--dynamic]

Models are those of tiny.py; images are the pictures of a folder, fitted into the frame, or noise of several scales.
Prints a row of a table for each: the largest differences of boxes, scores, masks, semantic and unified maps, those of
masks as they are, of others relative to numbers above one; and this package's operators in the file. Fails above 1e-4.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator

import cv2
import torch
from torch.nn import functional as F

from adet_ext.cli.inputs import find_images
from adet_ext.errors import UserError
from adet_ext.export.exported import fit
from adet_ext.export.files import Options, export_model, open_runner
from adet_ext.export.openvino_file import OPENVINO
from adet_ext.export.wrapper import TensorModel
from adet_ext.utils.image_io import read_image

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


def inputs_of(arguments: argparse.Namespace) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield images and their sizes; where these are dynamic, one or two images in frames of six sizes."""
    paths = find_images([arguments.pictures])[: arguments.images] if arguments.pictures else []
    if arguments.pictures and len(paths) < arguments.images:
        raise UserError(f"--pictures must be a folder of {arguments.images} images or more; it has {len(paths)}")
    for seed in range(arguments.images):
        frame = (SIZE[0] + 32 * (seed % 3), SIZE[1] + 32 * (seed % 2)) if arguments.dynamic else SIZE
        count = 1 + seed % 2 if arguments.dynamic else 1
        yield real(paths[seed : seed + count], frame) if paths else noise(count, frame, seed)


def real(paths: list[str], frame: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return pictures at the largest size that fits into a frame (H, W): (N, 3, H, W) uint8, and their sizes (N, 2)."""
    pictures = [read_image(path) for path in paths]
    sizes = [fit(*picture.shape[:2], frame) for picture in pictures]
    images = torch.zeros(len(paths), 3, *frame, dtype=torch.uint8)
    for image, picture, (height, width) in zip(images, pictures, sizes):
        small = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)
        image[:, :height, :width] = torch.from_numpy(small).permute(2, 0, 1)
    return images, torch.tensor(sizes)


def differences(model: TensorModel, path: str, arguments: argparse.Namespace) -> dict[str, float]:
    """Return the largest difference of each result over the images."""
    runner, most = open_runner(path), {}
    for inputs in inputs_of(arguments):
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


def compare(family: str, kind: str, arguments: argparse.Namespace) -> bool:
    """Export a family to a format, print its row, and return whether it is within the limit."""
    model = build(family)
    name = kind + " dynamic" * arguments.dynamic + " in OpenVINO" * arguments.openvino
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, f"model.{kind}")
        options = Options(kind, SIZE, dynamic=arguments.dynamic, precision=arguments.precision)
        try:
            operators = export_model(config(family), model, path, options).operators
            found = differences(TensorModel(model), f"{OPENVINO if arguments.openvino else ''}{path}", arguments)
        except UserError as error:
            print(f"| {family} | {name} | refused: {error} |", flush=True)
            return False
    cells = [f"{found[x]:.0e}" if x in found else "" for x in ("boxes", "scores", "masks", "semantic", "unified")]
    equal = max(found.values()) <= LIMIT
    verdict = "equal" if equal else "differs"
    print(f"| {family} | {name} | {verdict} | {' | '.join(cells)} | {', '.join(operators)} |", flush=True)
    return equal


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("families", nargs="*", default=list(FAMILIES))
    parser.add_argument("--format", nargs="+", choices=("onnx", "pt2"), default=["onnx", "pt2"], dest="formats")
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--pictures", metavar="FOLDER", help="of real images; noise if left out")
    parser.add_argument("--images", type=int, default=20)
    parser.add_argument("--dynamic", action="store_true")
    parser.add_argument("--openvino", action="store_true", help="read the ONNX file with OpenVINO")
    arguments = parser.parse_args()
    results = [compare(family, kind, arguments) for family in arguments.families for kind in arguments.formats]
    return int(not all(results))


if __name__ == "__main__":
    sys.exit(main())

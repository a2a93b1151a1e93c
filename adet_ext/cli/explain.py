"""Draw what a model's masks are made of: bases, attentions, and the components of factored attentions."""

import argparse
import os
import sys
from collections import Counter
from collections.abc import Sequence

from tqdm import tqdm

from ..config import load_config
from ..d2.modeling import META_ARCH_REGISTRY
from ..engine.predictor import Predictor
from ..errors import UserError
from ..utils.files import make_folder
from ..utils.image_io import read_image, write_image
from ..visualize.explain import PICTURES, can_follow, check_explainable, components_picture, explain
from .arguments import parse_with_overrides
from .inputs import add_model, find_images, given_classes, image_targets, keep_inputs, load_predictor, metadata_of

__all__ = ["build_parser", "main"]

COMPONENTS = "components.png"


def build_parser() -> argparse.ArgumentParser:
    """Return the command line of explain."""
    parser = argparse.ArgumentParser(
        description="Draw what a BlendMask or a DR1Mask makes its masks of.",
        epilog="Written for an image NAME: NAME_blending.png (prediction, bases, attentions) and NAME_instances.png "
        "(how masks come about, map by map) for BlendMask; for DR1Mask NAME_bases.png, NAME_instances.png, and "
        "NAME_prediction.png or, with full attention, NAME_blending.png. Once for a model with factored attention: "
        f"{COMPONENTS}. Exit status: 0 all went well, 1 some images could not be read, 2 nothing could be done.",
    )
    add_model(parser)
    parser.add_argument("--input", required=True, nargs="+", metavar="PATH", help="image files, folders, quoted globs")
    parser.add_argument("--output", required=True, metavar="FOLDER", help="where the pictures go")
    parser.add_argument(
        "--instances", type=int, default=3, metavar="N", help="follow the masks of the N best instances (%(default)s)"
    )
    return parser


def main(argv: Sequence[str] | None = None, predictor: Predictor | None = None) -> int:
    """Draw, and return the exit status; ``predictor`` stands in for the config's, in tests and notebooks.

    Raises:
        UserError: nothing could be done, and why.
    """
    arguments = parse_with_overrides(build_parser(), argv)
    if arguments.instances < 0:
        raise UserError(f"--instances must be 0 or more; got {arguments.instances}")
    paths = find_images(arguments.input)
    stems = _stems(paths, arguments.output)
    components = os.path.join(arguments.output, COMPONENTS)
    keep_inputs(paths, [components, *(f"{stem}_{name}.png" for stem in stems for name in PICTURES)])
    if predictor is None:
        name = load_config(arguments.config_file, arguments.opts).MODEL.META_ARCHITECTURE
        if name in META_ARCH_REGISTRY:  # before loading weights, which may take minutes
            check_explainable(META_ARCH_REGISTRY.get(name))
        predictor = load_predictor(
            arguments.config_file, arguments.opts, arguments.confidence_threshold, given_classes(arguments)
        )
    check_explainable(predictor.model)
    for folder in {os.path.dirname(path) for path in [components, *stems]}:
        make_folder(folder)

    written, broken = [], 0
    picture = components_picture(predictor.model)
    if picture is not None:
        write_image(components, picture[:, :, ::-1])
        written.append(components)
    metadata = metadata_of(predictor, arguments)
    for path, stem in zip(tqdm(paths, unit="image", disable=None), stems):
        try:
            image = read_image(path)
        except UserError as error:
            broken += 1
            tqdm.write(f"error: {error}", file=sys.stderr)
            continue
        pictures = explain(
            predictor, image, metadata, threshold=arguments.confidence_threshold, count=arguments.instances
        )
        if arguments.instances and "instances" not in pictures and can_follow(predictor.model):
            tqdm.write(f"{path}: no instance scores {arguments.confidence_threshold:g} or more")
        for name, picture in pictures.items():
            written.append(f"{stem}_{name}.png")
            write_image(written[-1], picture[:, :, ::-1])
    print("\n".join(f"wrote {path}" for path in written))
    if broken:
        print(f"{broken} {'image' if broken == 1 else 'images'} could not be read", file=sys.stderr)
    return 1 if broken else 0


def _stems(paths: Sequence[str], output: str) -> list[str]:
    """Return what the names of each image's pictures start with; with its suffix if images differ only by that."""
    # image_targets() may take --output for the file of a single image; here it is always a folder.
    targets = image_targets(paths, output)
    if targets == [output]:
        raise UserError(f"--output must be a folder, as several pictures are written; got {output}")
    parts = [os.path.splitext(target) for target in targets]
    often = Counter(stem for stem, _ in parts)
    return [stem if often[stem] == 1 else f"{stem}_{suffix[1:]}" for stem, suffix in parts]

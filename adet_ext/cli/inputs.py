"""What the commands that look at pictures share: which images, where the results go, which model, which names."""

import argparse
import functools
import glob
import os
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from ..config import load_config
from ..d2.data import MetadataCatalog
from ..data.catalog import class_names_of, model_classes_of
from ..data.frame_folders import read_classes
from ..data.validate import validate_coco
from ..data.validate_voc import validate_voc
from ..engine.predictor import Predictor
from ..errors import UserError
from ..utils import video
from ..utils.image_io import IMAGE_SUFFIXES

__all__ = [
    "add_model", "find_images", "given_classes", "image_targets", "keep_inputs", "load_predictor", "metadata_of",
]  # fmt: skip


def add_model(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that name a model and its classes, for :func:`load_predictor` and :func:`metadata_of`."""
    parser.add_argument("--config-file", required=True, metavar="FILE", help="a YAML file, or a packaged config's name")
    parser.add_argument(
        "--confidence-threshold",
        type=float,
        default=0.3,
        metavar="P",
        help="keep scores from P on, in panoptic maps too (%(default)s)",
    )
    names = parser.add_mutually_exclusive_group()
    names.add_argument(
        "--dataset-names",
        metavar="NAME",
        help="use the class names of this data set, not the config's; a registered name, or the JSON file, "
        "list of images or classes.json that was trained on",
    )
    names.add_argument("--class-names", nargs="+", metavar="NAME", help="the class names themselves")
    parser.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="config overrides, at the end")


def find_images(inputs: Sequence[str]) -> list[str]:
    """Return the image files that files, folders and globs name, in order and each once.

    Raises:
        UserError: one of ``inputs`` names nothing, or a video.
    """
    found: list[str] = []
    for entry in inputs:
        if os.path.isdir(entry):
            names = sorted(os.listdir(entry))
            matches = [os.path.join(entry, name) for name in names if name.lower().endswith(IMAGE_SUFFIXES)]
            if not matches:
                raise UserError(f"{entry}: there is no image in this folder ({', '.join(IMAGE_SUFFIXES)})")
        elif os.path.exists(entry):
            matches = [entry]
        else:
            matches = sorted(path for path in glob.glob(entry, recursive=True) if os.path.isfile(path))
            if not matches:
                raise UserError(f"{entry}: there is no such file or folder, and nothing matches it")
        for path in matches:
            if path.lower().endswith(video.SUFFIXES):
                raise UserError(f"{path} is a video; give it with --video-input")
        found += matches
    return list(dict.fromkeys(found))


def image_targets(paths: Sequence[str], output: str | None) -> list[str | None]:
    """Where each overlay goes: under its own name where names differ, else in the folders the inputs lie in."""
    if output is None:
        return [None] * len(paths)
    if len(paths) == 1 and output.lower().endswith(IMAGE_SUFFIXES) and not os.path.isdir(output):
        return [output]
    names = [os.path.basename(path) for path in paths]
    if len(set(names)) < len(names):
        full = [os.path.abspath(path) for path in paths]
        root = os.path.commonpath([os.path.dirname(path) for path in full])
        names = [os.path.relpath(path, root) for path in full]
    return [os.path.join(output, name) for name in names]


def keep_inputs(paths: Sequence[str], targets: Sequence[str | None]) -> None:
    """Refuse to write over an input, under whatever name the output reaches it."""
    inputs = {os.path.realpath(path) for path in paths}
    for target in targets:
        if target and os.path.realpath(target) in inputs:
            raise UserError(f"{target} is an input and would be overwritten; choose another --output or --json")


def load_predictor(
    config_file: str, opts: Sequence[str], threshold: float, classes: Sequence[str] | None = None
) -> Predictor:
    """Build the model of a config and load its weights.

    Args:
        classes: the names of the classes, if they are given: their number is the model's, as in a training with
            ``--dataset``, unless ``opts`` say otherwise.
        opts: KEY VALUE ..., which have the last word.
        threshold: the score from which instances are shown, and so the one from which things take part in a panoptic
            map: else one picture would show what another leaves out.

    Raises:
        UserError: the config names no weights, or they do not fit the model.
    """
    cfg = load_config(config_file, opts)
    if "MODEL.PANOPTIC_FPN.COMBINE.INSTANCES_CONFIDENCE_THRESH" not in opts:
        cfg.MODEL.PANOPTIC_FPN.COMBINE.INSTANCES_CONFIDENCE_THRESH = threshold
    keys = ("MODEL.FCOS.NUM_CLASSES", "MODEL.BASIS_MODULE.NUM_CLASSES")
    for key in ("MODEL.SEM_SEG_HEAD.NUM_CLASSES",) if cfg.INPUT.SEMANTIC.ENABLED else keys:
        if classes and key not in opts:
            cfg.merge_from_list([key, len(classes)])
    if not cfg.MODEL.WEIGHTS:
        raise UserError(f"{config_file} names no weights; add MODEL.WEIGHTS FILE at the end of the command")
    return Predictor(cfg)


def given_classes(arguments: argparse.Namespace) -> list[str] | None:
    """Return the class names that the arguments give themselves or by an annotation file, else None."""
    if arguments.class_names:
        return list(arguments.class_names)
    if arguments.dataset_names and arguments.dataset_names.lower().endswith((".json", ".txt")):
        return class_names_of(_names_in(arguments.dataset_names)) or _names_in(arguments.dataset_names).stuff_classes
    return None


def metadata_of(predictor: Predictor, arguments: argparse.Namespace) -> Any:
    """Return the names for drawing: those that the arguments give, else those in the checkpoint or of the test set."""
    if arguments.class_names:
        return SimpleNamespace(thing_classes=list(arguments.class_names))
    if arguments.dataset_names and arguments.dataset_names.lower().endswith((".json", ".txt")):
        return _names_in(arguments.dataset_names)
    tests = predictor.cfg.DATASETS.TEST
    name = arguments.dataset_names or (tests[0] if tests else "")
    metadata = MetadataCatalog.get(name) if name in MetadataCatalog.list() else SimpleNamespace()
    if arguments.dataset_names and not (class_names_of(metadata) or class_names_of(metadata, "stuff_classes")):
        raise UserError(f"--dataset-names {name}: no class names are registered under this name; use --class-names")
    classes = predictor.classes
    if classes and not arguments.dataset_names and model_classes_of(metadata) != classes:
        return SimpleNamespace(thing_classes=classes)
    return metadata


@functools.cache
def _names_in(path: str) -> SimpleNamespace:
    """The class names of an annotation file, and what else it says, as a training with it has them."""
    if os.path.basename(path) == "classes.json":  # of folders of frames
        classes, colors, _ = read_classes(os.path.dirname(path))
        return SimpleNamespace(stuff_classes=classes, stuff_colors=colors)
    validate = validate_voc if path.lower().endswith(".txt") else validate_coco
    checked = validate(path, "", check_files=False)
    checked.report.raise_for_errors()
    return SimpleNamespace(thing_classes=checked.classes, thing_dataset_id_to_contiguous_id=checked.category_ids)

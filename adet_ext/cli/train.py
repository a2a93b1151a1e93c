"""``train``: train a model, resume, or evaluate with ``--eval-only``; Detectron2's arguments and ``--dataset``."""

import argparse
import logging
import os
from collections.abc import Sequence

import torch

from ..config import find_config, load_config, project_keys
from ..d2.config import CfgNode
from ..d2.data import MetadataCatalog
from ..d2.engine import default_argument_parser, launch
from ..data.catalog import model_classes_of
from ..data.frame_folders import register_frame_folders
from ..data.register import num_classes_of, register_dataset
from ..engine.checkpoint import AdetCheckpointer, classes_in
from ..engine.checks import check_training
from ..engine.trainer import setup
from ..engine.trainers import trainer_of
from ..errors import UserError
from ..export.files import exported_config, is_exported, open_exported

__all__ = ["main", "make_parser", "configure", "run"]

_CLASS_KEYS = ("MODEL.FCOS.NUM_CLASSES", "MODEL.BASIS_MODULE.NUM_CLASSES")


def make_parser() -> argparse.ArgumentParser:
    """Detectron2's arguments, and the data set ones."""
    parser = default_argument_parser()
    # Two runs of one user on one machine must not want the same port.
    parser.set_defaults(dist_url="auto")
    add_data_arguments(parser)
    parser.add_argument(
        "--allow-outside", action="store_true", help="accept image files outside the folders given with --dataset"
    )
    return parser


def add_data_arguments(parser: argparse.ArgumentParser) -> None:
    """Add --dataset and --frames: data sets that are registered when the command runs."""
    parser.add_argument(
        "--dataset",
        nargs=3,
        action="append",
        default=[],
        metavar=("NAME", "IMAGES", "ANNOTATIONS"),
        help="a data set: its name, the folder of its images, and its JSON file in COCO format or, in VOC format, its "
        "list of images, such as ImageSets/Main/train.txt. Repeat the option: the first is trained on, the last "
        "evaluated on; the number of classes is taken from the first file, and the categories of the others are "
        "matched with it by name",
    )
    parser.add_argument(
        "--frames",
        nargs=2,
        action="append",
        default=[],
        metavar=("NAME", "FOLDER"),
        help="a data set of sequences of frames, for semantic models of videos: its name, and its folder, which has "
        "images/SEQUENCE/*.jpg and labels/SEQUENCE/*.png, and classes.json in it or above it. Repeat the option as "
        "--dataset",
    )


def configure(args: argparse.Namespace) -> CfgNode:
    """The config that the arguments describe, with their data sets registered; not frozen."""
    if not args.config_file:
        raise UserError("--config-file is missing; give a YAML file or a packaged name such as BlendMask/R_50_1x.yaml")
    overrides = list(args.opts or [])
    if args.dataset and args.frames:
        raise UserError("--dataset and --frames name data sets of different kinds; give one of them")
    # The first data set is the training set: its classes are the model's, unless the model is there already.
    classes = None
    if is_exported(args.config_file):
        cfg, classes = _exported(args, overrides)
    else:
        args.config_file = find_config(args.config_file)
        cfg = load_config(args.config_file, overrides)
        if args.eval_only and args.dataset:
            classes = classes_in(cfg.MODEL.WEIGHTS)
    for name, images, annotations in args.dataset:
        classes = register_dataset(name, images, annotations, classes=classes, allow_outside=args.allow_outside)
    for name, folder in args.frames:
        register_frame_folders(name, folder)
    if not args.eval_only:
        check_training(cfg)
    if args.num_gpus == 0 and cfg.MODEL.DEVICE != "cpu":
        raise UserError(f"MODEL.DEVICE must be cpu with --num-gpus 0; got {cfg.MODEL.DEVICE}. Add MODEL.DEVICE cpu")
    given = args.dataset or args.frames
    if given:
        if "DATASETS.TRAIN" not in overrides:
            cfg.DATASETS.TRAIN = (given[0][0],)
        if "DATASETS.TEST" not in overrides:
            cfg.DATASETS.TEST = (given[-1][0],)
        if args.frames:
            counts = {"MODEL.SEM_SEG_HEAD.NUM_CLASSES": len(MetadataCatalog.get(given[0][0]).stuff_classes)}
        else:
            counts = dict.fromkeys(_CLASS_KEYS, num_classes_of(cfg.DATASETS.TRAIN or cfg.DATASETS.TEST))
        for key, count in counts.items():
            if key not in overrides:
                cfg.merge_from_list([key, count])
    return cfg


def _exported(args: argparse.Namespace, overrides: list[str]) -> tuple[CfgNode, list[str] | None]:
    """Return the config and the classes of the exported file that is given in place of a config."""
    if not args.eval_only:
        raise UserError(f"--config-file must be a config to train; got the exported file {args.config_file}")
    if args.num_gpus > 1 or args.num_machines > 1:
        raise UserError(f"--num-gpus and --num-machines must be 1 for the exported file {args.config_file}")
    model = open_exported(args.config_file)
    # The engine would log the file's content as that of a config.
    args.exported, args.config_file, args.num_gpus = args.config_file, "", 0
    return exported_config(model, overrides), model.card.classes


def _evaluated(cfg: CfgNode, args: argparse.Namespace) -> tuple[torch.nn.Module, AdetCheckpointer]:
    """Return what is evaluated and the checkpointer that knows its classes."""
    if getattr(args, "exported", None):
        model = open_exported(args.exported)
        model.cfg.MODEL.PANOPTIC_FPN.COMBINE = cfg.MODEL.PANOPTIC_FPN.COMBINE
        checkpointer = AdetCheckpointer(model, cfg.OUTPUT_DIR)
        checkpointer.loaded_classes = model.card.classes
        return model, checkpointer
    model = trainer_of(cfg).build_model(cfg)
    checkpointer = AdetCheckpointer(model, cfg.OUTPUT_DIR)
    weights = checkpointer.get_checkpoint_file() if args.resume and checkpointer.has_checkpoint() else cfg.MODEL.WEIGHTS
    if weights:
        checkpointer.load_to_predict(weights)
    else:
        logging.getLogger(__name__).warning("MODEL.WEIGHTS is empty: the evaluated weights are random")
    return model, checkpointer


def run(args: argparse.Namespace, parent: int = 0, cfg: CfgNode | None = None, projects: Sequence = ()):
    """Do what each process does.

    Args:
        parent: the process that made ``cfg``; others make their own, for their data sets.
        projects: see :func:`project_keys`.
    """
    cfg = setup(cfg if os.getpid() == parent else configure(args), args)
    if not args.eval_only:
        trainer = trainer_of(cfg)(cfg)
        trainer.resume_or_load(resume=args.resume)
        return trainer.train()
    model, checkpointer = _evaluated(cfg, args)
    for name in cfg.DATASETS.TEST:
        checkpointer.check_classes(name, model_classes_of(MetadataCatalog.get(name)))
    return trainer_of(cfg).test(cfg, model)


def main(argv: list[str] | None = None) -> None:
    args = make_parser().parse_args(argv)
    cfg = configure(args)  # what is wrong with the arguments is said once, before any process starts
    launch(
        run,
        args.num_gpus,
        num_machines=args.num_machines,
        machine_rank=args.machine_rank,
        dist_url=args.dist_url,
        args=(args, os.getpid(), cfg, project_keys()),
    )

"""The command of a project's search: config and data as for training, the search's arguments, what is left at the end.

A project's ``search.py`` describes its search by a :class:`ProjectSearch`, and calls :func:`run_search` with it.
"""

import argparse
import dataclasses
import os
from collections.abc import Callable, Sequence

import yaml

from ..config import get_cfg
from ..d2.config import CfgNode
from ..d2.data import DatasetCatalog
from ..data.frame_folders import register_frame_folders
from ..data.register import register_dataset
from ..nas.driver import add_search_arguments, search_from_arguments
from ..nas.evaluation import load_factory
from ..nas.journal import Recorded
from ..nas.report import write_report
from ..nas.samplers import NAMES
from ..nas.space import Space
from ..nas.summary import JOURNAL, best_entries
from .train import add_data_arguments, configure

__all__ = ["ProjectSearch", "config_of", "run_search"]


@dataclasses.dataclass(frozen=True)
class ProjectSearch:
    """What a project's search is.

    Attributes:
        description: of the command.
        example: a config for the help.
        output: the default folder.
        node: the config key whose node describes the search. Of its keys are used here: those of the samplers, such as
            CONTROLLER, EARLY_STOPPING, and CACHE and CACHE_LIMIT_GB, which the reward does not depend on.
        build_space: the space of a config.
        factory: ``"package.module:function"`` that makes the evaluation of :func:`config_of`'s settings.
        save: writes an architecture's tokens as files that a config can name, in a folder, with a number in their
            names; returns config keys and the paths that belong to them.
        finish: is called at the end with what the journal holds and the folder of the search, where a project leaves
            more than the best architectures.
    """

    description: str
    example: str
    output: str
    node: str
    build_space: Callable[[CfgNode], Space]
    factory: str
    save: Callable[[Space, Sequence[int], str, int], dict[str, str]]
    finish: Callable[[Space, Recorded, str], None] = lambda space, found, folder: None


def config_of(settings: dict) -> CfgNode:
    """Return the config of an evaluation's settings, with its data sets registered here unless they are.

    Args:
        settings: "config", the config as nested dicts; "overrides", KEY VALUE pairs that the reward does not depend on;
            "datasets", (name, images, annotations) each, and "frames", (name, folder) each, as ``train`` takes them.
    """
    classes = None
    for name, images, annotations in settings.get("datasets", ()):
        if name not in DatasetCatalog:
            classes = register_dataset(name, images, annotations, classes=classes, allow_outside=True)
    for name, folder in settings.get("frames", ()):
        if name not in DatasetCatalog:
            register_frame_folders(name, folder)
    cfg = get_cfg()
    cfg.merge_from_other_cfg(CfgNode(settings["config"]))
    cfg.merge_from_list(list(settings.get("overrides", ())))
    return cfg


def run_search(project: ProjectSearch, argv: Sequence[str] | None = None) -> int:
    """Search, and leave journal, report, and the best architectures as files that a config can name."""
    args = _build_parser(project).parse_args(argv)
    cfg = configure(args)
    space = project.build_space(cfg)
    node = _at(cfg, project.node)
    settings = {"config": yaml.safe_load(cfg.dump())}
    # What the reward does not depend on: it may change between two runs of one search.
    independent = ("MODEL.DEVICE", f"{project.node}.CACHE", f"{project.node}.CACHE_LIMIT_GB", "OUTPUT_DIR")
    overrides = [part for key in independent for part in (key, _take(settings["config"], key))]
    local = {"overrides": overrides, "datasets": args.dataset, "frames": args.frames}
    # Here first: what is wrong is said before workers start, and they find the features ready.
    if args.workers or args.ray:
        load_factory(project.factory)({**settings, **local})
    try:
        found = search_from_arguments(
            args,
            space,
            project.factory,
            settings,
            sampler_settings={
                name: {key.lower(): value for key, value in node[_key_of(name)].items()}
                for name in NAMES
                if _key_of(name) in node
            },
            early_stopping={"points": 1} if node.EARLY_STOPPING else None,
            local=local,
        )
    finally:
        journal = os.path.join(args.output, JOURNAL)
        if os.path.isfile(journal):
            write_report(args.output, journal)
    _leave_best(project, space, found, args)
    project.finish(space, found, args.output)
    return 0


def _build_parser(project: ProjectSearch) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=project.description,
        epilog="Write 'python -m adet_ext search report DIR' for the report, also while the search runs.",
    )
    parser.add_argument("--config-file", default="", metavar="FILE", help=f"such as {project.example}")
    add_data_arguments(parser)
    parser.add_argument("--allow-outside", action="store_true", help="accept image files outside the folder of images")
    add_search_arguments(parser, project.output)
    parser.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="config overrides")
    parser.set_defaults(eval_only=True, num_gpus=1)  # what configure asks of a training
    return parser


def _key_of(sampler: str) -> str:
    """Return the key of a sampler's settings in a search node."""
    return sampler.upper().replace("-", "_")


def _at(cfg: CfgNode, key: str) -> CfgNode:
    for part in key.split("."):
        cfg = cfg[part]
    return cfg


def _take(config: dict, key: str):
    """Remove a key from nested dicts and return its value."""
    *groups, name = key.split(".")
    for group in groups:
        config = config[group]
    return config.pop(name)


def _leave_best(project: ProjectSearch, space: Space, found: Recorded, args: argparse.Namespace) -> None:
    """Write the best architectures as genotypes, and print where they and the report are."""
    first: dict[str, str] = {}
    for place, entry in enumerate(best_entries(found.entries, args.best), 1):
        saved = project.save(space, entry["tokens"], os.path.join(args.output, "best"), place)
        first = first or saved
    print(f"\nreport: {os.path.join(args.output, 'report.html')}")
    for key, path in first.items():
        print(f"best: {path}; train it with train_net.py --config-file ... {key} {path}")

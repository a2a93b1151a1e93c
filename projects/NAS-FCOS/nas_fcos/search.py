"""The command of the search: config and data as for training, the search's arguments, and what is left at the end."""

import argparse
import os
from collections.abc import Sequence

import yaml

from adet_ext.cli.train import configure
from adet_ext.d2.config import CfgNode
from adet_ext.nas.driver import add_search_arguments, search_from_arguments
from adet_ext.nas.journal import Recorded
from adet_ext.nas.report import write_report
from adet_ext.nas.summary import JOURNAL, best_entries

from .genotype import save_genotype
from .proxy import make_evaluate
from .search_space import SearchSpace, build_space

__all__ = ["main"]

# What the reward does not depend on: it may change between two runs of one search.
_LOCAL = ("MODEL.DEVICE", "MODEL.NAS_FCOS.SEARCH.CACHE", "MODEL.NAS_FCOS.SEARCH.CACHE_LIMIT_GB", "OUTPUT_DIR")


def build_parser() -> argparse.ArgumentParser:
    """The command line of ``search_net.py``."""
    parser = argparse.ArgumentParser(
        description="Search for the FPN or the head of FCOS on a proxy task (thesis chapter 7).",
        epilog="Write 'python -m adet_ext search report DIR' for the report, also while the search runs.",
    )
    parser.add_argument("--config-file", default="", metavar="FILE", help="such as configs/search/fpn_shapes.yaml")
    parser.add_argument("--dataset", nargs=3, action="append", default=[], metavar=("NAME", "IMAGES", "ANNOTATIONS"),
                        help="the images of the proxy, as train_net.py takes them")  # fmt: skip
    parser.add_argument("--allow-outside", action="store_true", help="accept image files outside the folder of images")
    add_search_arguments(parser, "output/nas_fcos/search")
    parser.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="config overrides")
    parser.set_defaults(eval_only=True, num_gpus=1)  # what configure asks of a training
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Search, and leave journal, report, and the best architectures as files that a config can name."""
    args = build_parser().parse_args(argv)
    cfg = configure(args)
    space = build_space(cfg)
    settings = {"config": yaml.safe_load(cfg.dump())}
    overrides = [part for key in _LOCAL for part in (key, _take(settings["config"], key))]
    local = {"overrides": overrides, "datasets": args.dataset}
    # Here first: what is wrong is said before workers start, and they find the features ready.
    if args.workers or args.ray:
        make_evaluate({**settings, **local})
    try:
        found = search_from_arguments(
            args,
            space,
            "nas_fcos.proxy:make_evaluate",
            settings,
            sampler_settings={
                name: {key.lower(): value for key, value in cfg.MODEL.NAS_FCOS.SEARCH[name.upper()].items()}
                for name in ("controller", "evolution")
            },
            early_stopping={"points": 1} if cfg.MODEL.NAS_FCOS.SEARCH.EARLY_STOPPING else None,
            local=local,
        )
    finally:
        journal = os.path.join(args.output, JOURNAL)
        if os.path.isfile(journal):
            write_report(args.output, journal)
    _leave_best(cfg, space, found, args)
    return 0


def _take(config: dict, key: str):
    """Remove a key from nested dicts and return its value."""
    *groups, name = key.split(".")
    for group in groups:
        config = config[group]
    return config.pop(name)


def _leave_best(cfg: CfgNode, space: SearchSpace, found: Recorded, args: argparse.Namespace) -> None:
    """Write the best architectures as genotypes, and print where they and the report are."""
    for place, entry in enumerate(best_entries(found.entries, args.best), 1):
        for genotype in filter(None, space.genotypes(entry["tokens"])):
            kind = genotype.to_json()["kind"]
            save_genotype(genotype, os.path.join(args.output, "best", f"{kind}_{place}.json"))
    print(f"\nreport: {os.path.join(args.output, 'report.html')}")
    for kind, key in (("fpn", "FPN"), ("head", "HEAD")):
        path = os.path.join(args.output, "best", f"{kind}_1.json")
        if os.path.isfile(path):
            print(f"best {kind}: {path}; train it with train_net.py --config-file ... MODEL.NAS_FCOS.{key} {path}")

"""What the commands of all searches have in common: their arguments, and the search that these describe."""

import argparse
import os
import sys

from .journal import Recorded
from .samplers import NAMES
from .search import search
from .space import Space
from .summary import JOURNAL, render

__all__ = ["add_search_arguments", "search_from_arguments"]


def add_search_arguments(parser: argparse.ArgumentParser, output: str = "output/search") -> None:
    """Add what every search takes. Give ``output``, the default of --output, a name of the project's own."""
    group = parser.add_argument_group("search")
    group.add_argument("--output", default=output, metavar="DIR", help=f"folder of the journal ({output}); a journal "
                       "that is there is gone on with")  # fmt: skip
    group.add_argument("--budget", type=int, metavar="N", help="architectures in all, rejected ones aside")
    group.add_argument("--hours", type=float, metavar="H", help="how long this run may take; with --budget, whichever "
                       "comes first. Either ends the search after a round")  # fmt: skip
    group.add_argument("--sampler", choices=NAMES, default="controller", help="what draws architectures (controller)")
    group.add_argument("--seed", type=int, default=0, help="of the sampler and of every evaluation (0)")
    group.add_argument("--round", type=int, default=10, metavar="N", help="architectures drawn at once (10)")
    group.add_argument("--workers", type=int, default=0, metavar="N", help="processes that evaluate; 0: this one (0)")
    group.add_argument("--ray", default="", metavar="ADDRESS", help="evaluate on a Ray cluster: HOST:PORT, "
                       "ray://HOST:PORT, auto, or local to start one here; needs pip install ray")  # fmt: skip
    group.add_argument("--threads", type=int, default=1, metavar="N", help="threads of torch in each process (1); the "
                       "last digits of rewards depend on it")  # fmt: skip
    group.add_argument("--best", type=int, default=5, metavar="N", help="how many architectures to print at the end")


def search_from_arguments(
    args: argparse.Namespace,
    space: Space,
    factory: str,
    settings: dict,
    *,
    sampler_settings: dict[str, dict] | None = None,
    early_stopping: dict | None = None,
    local: dict | None = None,
) -> Recorded:
    """Search as the arguments of :func:`add_search_arguments` say, print what was found, and return the journal.

    Args:
        factory, settings, early_stopping, local: see :func:`~adet_ext.nas.search.search`.
        sampler_settings: keywords by the name of the sampler, for those that the project sets.

    Raises:
        UserError, KeyboardInterrupt, Terminated: see :func:`~adet_ext.nas.search.search`.
    """
    path = os.path.join(args.output, JOURNAL)
    recorded = search(
        space,
        args.sampler,
        factory,
        settings,
        path=path,
        sampler_settings=(sampler_settings or {}).get(args.sampler),
        early_stopping=early_stopping,
        seed=args.seed,
        round_size=args.round,
        budget=args.budget,
        hours=args.hours,
        workers=args.workers,
        ray=args.ray,
        threads=args.threads,
        local=local,
    )
    sys.stderr.flush()
    print(render(path, args.best))
    return recorded

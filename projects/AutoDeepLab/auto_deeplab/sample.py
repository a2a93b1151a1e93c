"""An architecture drawn at random with as many parameters as another has: what a found one is compared with."""

import argparse
import os
from collections.abc import Sequence

import numpy as np

from adet_ext.config import load_config
from adet_ext.d2.config import CfgNode
from adet_ext.d2.modeling import build_model
from adet_ext.errors import UserError

from .genotype import LEVELS, Block, Genotype, load_genotype, save_genotype
from .operations import NONE, OPERATIONS
from .space import STEPS
from .table import parameters_of

__all__ = ["draw_genotype", "like", "main", "model_parameters"]

_REAL = [name for name in OPERATIONS if name != NONE]


def draw_genotype(generator: np.random.Generator, blocks: int, layers: int) -> Genotype:
    """Draw an architecture that a search could find: two states of every block, and no operation "none"."""
    found = []
    for block in range(blocks):
        states = sorted(generator.choice(block + 2, 2, replace=False).tolist())
        found.append(Block(tuple(states), tuple(generator.choice(_REAL, 2).tolist())))
    path = [0]
    for _ in range(layers):
        path.append(int(generator.choice([path[-1] + step for step in STEPS if 0 <= path[-1] + step < LEVELS])))
    return Genotype(tuple(found), tuple(path[1:]))


def model_parameters(cfg: CfgNode, path: str) -> int:
    """Return the parameters of the config's model with the architecture in a file."""
    cfg = cfg.clone()
    cfg.MODEL.AUTO_DEEPLAB.GENOTYPE, cfg.MODEL.DEVICE = path, "meta"
    return parameters_of(build_model(cfg))


def like(cfg: CfgNode, name: str, output: str, *, seed: int, tolerance: float, draws: int) -> tuple[int, int]:
    """Write the first of ``draws`` random architectures whose model has as many parameters, up to a share.

    Args:
        name: of the architecture to compare with, or its file; blocks and layers are as many.
        tolerance: the share of its parameters by which the other's may differ.

    Returns:
        the parameters of the two models.

    Raises:
        UserError: none of them is near enough.
    """
    known = load_genotype(name)
    target, generator, nearest = model_parameters(cfg, name), np.random.default_rng(seed), None
    for _ in range(draws):
        genotype = draw_genotype(generator, len(known.blocks), len(known.path))
        save_genotype(genotype, output)
        count = model_parameters(cfg, output)
        if genotype != known and abs(count - target) <= tolerance * target:
            return target, count
        if nearest is None or abs(count - target) < abs(nearest - target):
            nearest = count
    os.remove(output)
    raise UserError(
        f"--tolerance must let one of {draws} random architectures pass; got {tolerance:g}, {target:,} parameters in "
        f"{name}, and {nearest:,} in the nearest. Increase it or --draws"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Write a random architecture, and print the parameters of the two."""
    parser = argparse.ArgumentParser(prog="python -m auto_deeplab sample", description=__doc__)
    parser.add_argument("genotype", help="the architecture to compare with: a name or a JSON file")
    parser.add_argument("output", help="the JSON file to write")
    parser.add_argument("--config-file", required=True, metavar="FILE", help="of the training of both")
    parser.add_argument("--seed", type=int, default=0, help="of the draws (0)")
    parser.add_argument("--tolerance", type=float, default=0.03, metavar="SHARE", help="of the parameters (0.03)")
    parser.add_argument("--draws", type=int, default=500, metavar="N", help="architectures to look at (500)")
    parser.add_argument("--opts", nargs="+", default=[], metavar="KEY VALUE", help="config overrides of the training")
    args = parser.parse_args(argv)
    if args.draws < 1:
        raise UserError(f"--draws must be 1 or more; got {args.draws}")
    cfg = load_config(args.config_file, args.opts)
    limits = {"seed": args.seed, "tolerance": args.tolerance, "draws": args.draws}
    target, count = like(cfg, args.genotype, args.output, **limits)
    print(f"{args.genotype}: {target:,} parameters\n{args.output}: {count:,} parameters")
    return 0

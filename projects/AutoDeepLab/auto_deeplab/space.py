"""The two-level space: how large it is, and the architecture that relaxed numbers stand for.

B blocks of a cell, E = 2 + 3 + ... + (B + 1) edges into them, L layers.
"""

import math

import torch

from .genotype import LEVELS, Block, Genotype
from .operations import NONE, OPERATIONS

__all__ = ["STEPS", "cell_count", "decode", "edges", "path_count", "viterbi"]

# From a layer to the next, a level goes up, stays or goes down: the order of beta's numbers.
STEPS = (-1, 0, 1)


def edges(blocks: int) -> list[tuple[int, int]]:
    """Return (block, state) of every edge, in alpha's order; states 0 and 1 are the cells before."""
    return [(block, state) for block in range(blocks) for state in range(block + 2)]


def cell_count(blocks: int = 5) -> int:
    """Return the number of cells as the paper counts: two inputs and two of 8 operations for every block."""
    return math.prod((len(OPERATIONS) * (block + 2)) ** 2 for block in range(blocks))


def path_count(moves: int) -> int:
    """Return the number of paths of so many moves that start at the first level.

    11 moves give 28,657, the 2.9e4 of the paper; a first layer at stride 4 or 8 makes them 12 and the paths 75,025.
    """
    ways = [1] + [0] * (LEVELS - 1)
    for _ in range(moves):
        ways = [sum(ways[level + step] for step in STEPS if 0 <= level + step < LEVELS) for level in range(LEVELS)]
    return sum(ways)


def viterbi(beta: torch.Tensor) -> tuple[int, ...]:
    """Return the levels of the path with the largest product of probabilities.

    Args:
        beta: (L, LEVELS, 3), the probability of each of :data:`STEPS` from a level before layer l to layer l; before
            the first layer, the level is 0. Steps that leave the levels have the probability 0.
    """
    best = {0: (0.0, ())}
    for layer in beta.double().log().tolist():
        reached: dict[int, tuple[float, tuple[int, ...]]] = {}
        for level, (score, path) in best.items():
            for step, gain in zip(STEPS, layer[level]):
                target = level + step
                if 0 <= target < LEVELS and (target not in reached or score + gain > reached[target][0]):
                    reached[target] = (score + gain, (*path, target))
        best = reached
    return max(best.values())[1]


def decode(alpha: torch.Tensor, beta: torch.Tensor) -> Genotype:
    """Return the discrete architecture: for every block the two strongest states, by their best operation but "none";
    and the likeliest path.

    Args:
        alpha: (E, 8) probabilities.
        beta: (L, LEVELS, 3) probabilities.
    """
    real = alpha.double()[:, [name != NONE for name in OPERATIONS]]
    strength, operation = real.max(dim=1)
    names = [name for name in OPERATIONS if name != NONE]
    places: dict[int, list[int]] = {}
    for place, (block, _) in enumerate(edges(_blocks_of(len(alpha)))):
        places.setdefault(block, []).append(place)
    states = [state for _, state in edges(len(places))]
    blocks = []
    for mine in places.values():
        chosen = sorted(sorted(mine, key=lambda place: -strength[place].item())[:2])
        inputs, operations = zip(*((states[place], names[operation[place]]) for place in chosen))
        blocks.append(Block(inputs, operations))
    return Genotype(tuple(blocks), viterbi(beta))


def _blocks_of(count: int) -> int:
    blocks = 0
    while len(edges(blocks)) < count:
        blocks += 1
    return blocks

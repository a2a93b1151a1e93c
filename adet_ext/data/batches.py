"""The stream of training batches: a function of the data set, the seed and the total batch size alone.

The numbers of processes and workers do not change which images make up batch i, and neither does an interruption. To
achieve this, indices are shuffled, grouped by aspect ratio and cut into batches before anything is loaded.

Letters: B images of a batch over all processes; P processes ("ranks"); n images of the data set.
"""

from collections.abc import Iterator

import numpy as np

from ..errors import UserError

__all__ = ["TrainingBatches"]


class TrainingBatches:
    """The endless stream of batches: lists of (position, index), B / P of them for each rank.

    ``position`` counts the samples of all processes from the start of training; ``index`` is that of the image.

    Args:
        size: n.
        seed: not negative; the same for all ranks.
        batch_size: B, a multiple of ``world_size``.
        wide: bool [n], whether an image is wider than high; a batch holds images of one kind. None: no grouping.
        repeat_factors: float [n], how often an image occurs in an epoch on average; None: once.
        start: number of batches to skip.
    """

    def __init__(
        self,
        size: int,
        seed: int,
        batch_size: int,
        *,
        wide: np.ndarray | None = None,
        repeat_factors: np.ndarray | None = None,
        start: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ):
        if batch_size < 1 or batch_size % world_size:
            raise UserError(
                f"SOLVER.IMS_PER_BATCH must be a multiple of the number of processes, {world_size}; got {batch_size}"
            )
        self.size, self.seed, self.batch_size = size, seed, batch_size
        self.wide, self.repeat_factors, self.start = wide, repeat_factors, start
        per_rank = batch_size // world_size
        self.slice = slice(rank * per_rank, (rank + 1) * per_rank)

    def epoch(self, number: int) -> list[int]:
        """Return the shuffled indices of one epoch. Fractions of repeat factors are rounded at random."""
        rng = np.random.RandomState([self.seed, number])
        if self.repeat_factors is None:
            return rng.permutation(self.size).tolist()
        whole = np.floor(self.repeat_factors)
        times = (whole + (rng.random_sample(self.size) < self.repeat_factors - whole)).astype(np.int64)
        return rng.permutation(np.repeat(np.arange(self.size), times)).tolist()

    def _samples(self) -> Iterator[tuple[int, int]]:
        position = number = 0
        while True:
            for index in self.epoch(number):
                yield position, index
                position += 1
            number += 1

    def _global_batches(self) -> Iterator[list[tuple[int, int]]]:
        open_batches: tuple[list, list] = ([], [])
        wide = np.zeros(self.size, bool) if self.wide is None else self.wide
        kinds = wide.astype(int).tolist()
        for sample in self._samples():
            batch = open_batches[kinds[sample[1]]]
            batch.append(sample)
            if len(batch) == self.batch_size:
                yield batch.copy()
                batch.clear()

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        batches = self._global_batches()
        for _ in range(self.start):
            next(batches)
        for batch in batches:
            yield batch[self.slice]

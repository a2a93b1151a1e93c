"""Index streams shared by all processes. Each yields every world-size-th index, starting at its rank."""

import itertools
import logging
import math
from collections import Counter
from collections.abc import Iterator

import torch
from torch.utils.data import Sampler

from ..utils import comm

logger = logging.getLogger(__name__)


class _InfiniteSampler(Sampler):
    """Endless epochs of indices, from one generator with the same seed in all processes."""

    def __init__(self, seed: int | None):
        self._seed = int(comm.shared_random_seed() if seed is None else seed)
        self._rank = comm.get_rank()
        self._world_size = comm.get_world_size()

    def _epoch(self, generator: torch.Generator) -> torch.Tensor:
        raise TypeError(f"{type(self).__name__} must define _epoch")

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self._seed)
        indices = itertools.chain.from_iterable(self._epoch(generator).tolist() for _ in itertools.count())
        yield from itertools.islice(indices, self._rank, None, self._world_size)


class TrainingSampler(_InfiniteSampler):
    """Endless permutations of ``range(size)``. ``seed`` None draws a common seed for all processes."""

    def __init__(self, size: int, *, seed: int | None = None):
        if not isinstance(size, int):
            raise TypeError(f"TrainingSampler needs the data set's size as an int, got {type(size)}")
        if size <= 0:
            raise ValueError(f"TrainingSampler needs a positive size, got {size}")
        super().__init__(seed)
        self._size = size

    def _epoch(self, generator: torch.Generator) -> torch.Tensor:
        return torch.randperm(self._size, generator=generator)


class RepeatFactorTrainingSampler(_InfiniteSampler):
    """Index i appears ``repeat_factors[i]`` times per epoch on average.

    In each epoch the fraction is rounded up or down at random.
    """

    def __init__(self, repeat_factors: torch.Tensor, *, seed: int | None = None):
        super().__init__(seed)
        self._whole = torch.trunc(repeat_factors)
        self._fraction = repeat_factors - self._whole

    @staticmethod
    def repeat_factors_from_category_frequency(
        dataset_dicts: list[dict], repeat_thresh: float, sqrt: bool = True
    ) -> torch.Tensor:
        """Return the repeat factors of the LVIS paper, float32 (N,).

        That of an image is the largest r(c) = max(1, sqrt(t / f(c))) over its classes c, where f(c) is the fraction of
        images with class c and t is ``repeat_thresh``.

        Without ``sqrt``, r(c) = max(1, t / f(c)). Images without annotations get 1.
        """
        classes = [{a["category_id"] for a in d["annotations"]} for d in dataset_dicts]
        counts = Counter(itertools.chain.from_iterable(classes))
        repeat = {}
        for c, count in sorted(counts.items()):
            ratio = repeat_thresh / (count / len(dataset_dicts))
            repeat[c] = max(1.0, math.sqrt(ratio) if sqrt else ratio)
            logger.info("class %d: in %d images, repeated %.2f times", c, count, repeat[c])
        factors = [max((repeat[c] for c in image), default=1.0) for image in classes]
        return torch.tensor(factors, dtype=torch.float32)

    def _epoch(self, generator: torch.Generator) -> torch.Tensor:
        round_up = torch.rand(len(self._fraction), generator=generator) < self._fraction
        times = (self._whole + round_up.float()).long()
        indices = torch.repeat_interleave(torch.arange(len(times)), times)
        return indices[torch.randperm(len(indices), generator=generator)]


class InferenceSampler(Sampler):
    """Each index of ``range(size)`` once over all processes, in contiguous shares.

    If ``size`` does not divide, the shares of the first ranks are longer by one.
    """

    def __init__(self, size: int):
        assert size > 0, f"InferenceSampler needs a positive size, got {size}"
        share, extra = divmod(size, comm.get_world_size())
        rank = comm.get_rank()
        begin = rank * share + min(rank, extra)
        self._local_indices = range(begin, begin + share + (rank < extra))

    def __iter__(self) -> Iterator[int]:
        yield from self._local_indices

    def __len__(self) -> int:
        return len(self._local_indices)

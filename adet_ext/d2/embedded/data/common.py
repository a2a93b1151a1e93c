"""Data sets that wrap others: a list kept as one buffer, mapped elements, a sampled stream, grouped batches."""

import copy
import itertools
import logging
import pickle
import random
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch
import torch.utils.data as torchdata

logger = logging.getLogger(__name__)


class _PickledItems:
    """A list kept as one byte tensor, so that forked workers share its memory.

    Python objects are copied page by page in a forked worker as soon as their reference counts move; a
    tensor's bytes are not.
    """

    def __init__(self, items: list):
        buffers = [np.frombuffer(pickle.dumps(x, protocol=-1), dtype=np.uint8) for x in items]
        self._ends = torch.from_numpy(np.cumsum([len(b) for b in buffers], dtype=np.int64))
        self._bytes = torch.from_numpy(np.concatenate(buffers) if buffers else np.zeros(0, np.uint8))
        logger.info("%d data set items take %.2f MiB", len(items), len(self._bytes) / 1024**2)

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: int):
        start = 0 if index == 0 else self._ends[index - 1].item()
        return pickle.loads(memoryview(self._bytes[start : self._ends[index].item()].numpy()))


class DatasetFromList(torchdata.Dataset):
    """A list as a data set. ``serialize`` keeps it as one buffer (each access makes a new object), else
    ``copy`` hands out deep copies."""

    def __init__(self, lst: list, copy: bool = True, serialize: bool = True):
        self._copy = copy and not serialize
        self._lst = _PickledItems(lst) if serialize else lst

    def __len__(self) -> int:
        return len(self._lst)

    def __getitem__(self, idx: int):
        return copy.deepcopy(self._lst[idx]) if self._copy else self._lst[idx]


class _MapIterableDataset(torchdata.IterableDataset):
    def __init__(self, dataset: Iterable, map_func: Callable):
        self._dataset = dataset
        self._map_func = map_func

    def __len__(self) -> int:
        return len(self._dataset)

    def __iter__(self) -> Iterator:
        return (x for x in map(self._map_func, self._dataset) if x is not None)


class MapDataset(torchdata.Dataset):
    """``map_func`` over the elements of ``dataset``.

    Where ``map_func`` returns None, another element is drawn instead (map-style data sets) or the element
    is left out (iterable ones).
    """

    def __new__(cls, dataset, map_func: Callable):
        if isinstance(dataset, torchdata.IterableDataset):
            return _MapIterableDataset(dataset, map_func)
        return super().__new__(cls)

    def __getnewargs__(self):
        return self._dataset, self._map_func

    def __init__(self, dataset, map_func: Callable):
        self._dataset = dataset
        self._map_func = map_func
        self._rng = random.Random(42)
        self._candidates = set(range(len(dataset)))

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, idx: int):
        current = int(idx)
        for attempt in itertools.count(1):
            data = self._map_func(self._dataset[current])
            if data is not None:
                self._candidates.add(current)
                return data
            self._candidates.discard(current)
            if not self._candidates:
                raise RuntimeError("the mapper returned None for every element of the data set")
            current = self._rng.sample(list(self._candidates), k=1)[0]
            if attempt >= 3:
                logger.warning("the mapper has returned None %d times in place of element %d", attempt, idx)


def _shard(indices: Iterable, chunk: int) -> Iterator:
    """This loader worker's part of ``indices``: chunks of ``chunk`` dealt out to the workers in turn."""
    worker = torchdata.get_worker_info()
    if worker is None or worker.num_workers == 1:
        yield from indices
        return
    first, period = worker.id * chunk, worker.num_workers * chunk
    for position, index in enumerate(indices):
        if first <= position % period < first + chunk:
            yield index


class ToIterableDataset(torchdata.IterableDataset):
    """A map-style ``dataset`` in the order of ``sampler``, shared out over loader workers.

    ``shard_chunk_size`` is the batch size, so that a batch made by one worker holds neighbours of the
    sampler's order.
    """

    def __init__(self, dataset, sampler, shard_sampler: bool = True, shard_chunk_size: int = 1):
        assert not isinstance(dataset, torchdata.IterableDataset), f"{type(dataset)} is iterable already"
        assert isinstance(sampler, torchdata.Sampler), f"a Sampler is needed, got {type(sampler)}"
        self.dataset = dataset
        self.sampler = sampler
        self.shard_sampler = shard_sampler
        self.shard_chunk_size = shard_chunk_size

    def __iter__(self) -> Iterator:
        indices = _shard(self.sampler, self.shard_chunk_size) if self.shard_sampler else self.sampler
        for index in indices:
            yield self.dataset[index]

    def __len__(self) -> int:
        return len(self.sampler)


class AspectRatioGroupedDataset(torchdata.IterableDataset):
    """Batches of dicts with "width" and "height" that are all wider than high, or all not: less padding."""

    def __init__(self, dataset: Iterable[dict], batch_size: int):
        self.dataset = dataset
        self.batch_size = batch_size
        self._buckets: list[list[dict]] = [[], []]

    def __iter__(self) -> Iterator[list[dict]]:
        for d in self.dataset:
            group = 0 if d["width"] > d["height"] else 1
            self._buckets[group].append(d)
            if len(self._buckets[group]) == self.batch_size:
                batch, self._buckets[group] = (self._buckets[group], [])  # before the yield, which may not return
                yield batch

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
    """A list kept as one byte tensor: forked workers share its memory, while Python objects are copied page by
    page as soon as their reference counts move."""

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


class MapDataset(torchdata.Dataset):
    """``map_func`` over the elements of ``dataset``; where it returns None, another element is drawn instead."""

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


class ToIterableDataset(torchdata.IterableDataset):
    """A map-style ``dataset`` in the order of ``sampler``, dealt out to the loader's workers in chunks.

    With the batch size as ``chunk_size`` a batch made by one worker holds neighbours of the sampler's order.
    """

    def __init__(self, dataset, sampler: torchdata.Sampler, chunk_size: int):
        self.dataset, self.sampler, self.chunk_size = dataset, sampler, chunk_size

    def __iter__(self) -> Iterator:
        worker = torchdata.get_worker_info()
        own, workers = (0, 1) if worker is None else (worker.id, worker.num_workers)
        for position, index in enumerate(self.sampler):
            if position // self.chunk_size % workers == own:
                yield self.dataset[index]


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
                batch, self._buckets[group] = self._buckets[group], []  # before the yield, which may not return
                yield batch

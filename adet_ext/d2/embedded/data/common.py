"""A list as a data set, kept as one buffer."""

import copy
import logging
import pickle

import numpy as np
import torch
import torch.utils.data as torchdata

logger = logging.getLogger(__name__)


class _PickledItems:
    """A list kept as one byte tensor.

    Forked workers share its memory. Python objects would be copied page by page as their reference counts change.
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
    """A list as a data set.

    ``serialize`` keeps it as one buffer, and each access makes a new object. Otherwise ``copy`` returns deep copies.
    """

    def __init__(self, lst: list, copy: bool = True, serialize: bool = True):
        self._copy = copy and not serialize
        self._lst = _PickledItems(lst) if serialize else lst

    def __len__(self) -> int:
        return len(self._lst)

    def __getitem__(self, idx: int):
        return copy.deepcopy(self._lst[idx]) if self._copy else self._lst[idx]

"""The feature cache: what a frozen backbone gives for a data set, computed once (thesis 7.3.3).

N items; a level l of item n is a tensor C_l x H x W, where H and W may differ between items. A cache is in memory, or
in a folder whose files are mapped into memory, so that many processes share one copy; see
:mod:`~adet_ext.nas.feature_files`. A folder of another fingerprint is never read and never overwritten.
"""

import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import UserError
from ..utils.files import make_folder
from . import feature_files as files

__all__ = ["FeatureCache"]

Shapes = dict[str, tuple[int, int, int]]

_SECONDS = 10.0  # between two writes to the disk: what is computed again after a kill


class FeatureCache:
    """The features of N items. ``cache[n]`` is a dict of level to a float32 tensor C x H x W of its own memory.

    Make one with :meth:`build`, open a finished one with :meth:`open`.
    """

    def __init__(self, header: dict, arrays: Mapping[str, np.ndarray], path: str | None = None):
        self.path, self.fingerprint, self.dtype = path, header["fingerprint"], header["dtype"]
        self._header, self._arrays = header, {level: np.asarray(array) for level, array in arrays.items()}
        self._shapes = {level: [tuple(shape) for shape in shapes] for level, shapes in header["shapes"].items()}
        sizes = {level: [math.prod(shape) for shape in shapes] for level, shapes in self._shapes.items()}
        # One shape where all items agree; else one for each, with where each begins.
        self._starts = {level: np.cumsum([0, *s]) for level, s in sizes.items() if len(s) > 1}

    @property
    def levels(self) -> list[str]:
        """The levels' names, in the order in which the backbone gave them."""
        return list(self._shapes)

    @property
    def nbytes(self) -> int:
        """The size of all features in bytes."""
        return files.nbytes(self._header)

    def __len__(self) -> int:
        return self._header["items"]

    def __repr__(self) -> str:
        where = "in memory" if self.path is None else f"at {self.path}"
        what = [f"{len(self)} items", *self.levels, self.dtype, files.size_text(self.nbytes), where]
        return f"FeatureCache({', '.join(what)})"

    def shapes(self, index: int) -> Shapes:
        """Return the shape C x H x W of every level of an item."""
        return {level: shapes[index if len(shapes) > 1 else 0] for level, shapes in self._shapes.items()}

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {level: _tensor(self._view(level, index)) for level in self._shapes}

    def crop(self, index: int, box: tuple[int, int, int, int], strides: Mapping[str, int]) -> dict[str, Tensor]:
        """Return the features of a crop of an item, cut out of those of the whole.

        They differ from the features of the cropped image near its edges, where the backbone saw what is outside.

        Args:
            box: top, left, height and width in pixels of the image, each a multiple of every stride.
            strides: of every level that is wanted.

        Raises:
            ValueError: a box that is not on the grid of a level, or not inside the image.
        """
        found = {}
        for level, stride in strides.items():
            view = self._view(level, index)  # C x H x W
            if any(side % stride for side in box):
                raise ValueError(f"box {box} must be of multiples of {stride}, the stride of {level}")
            top, left, height, width = (side // stride for side in box)
            if min(top, left) < 0 or min(height, width) < 1:
                raise ValueError(f"box {box} must be inside the image and not empty")
            if top + height > view.shape[1] or left + width > view.shape[2]:
                raise ValueError(f"box {box} must be inside {view.shape[1:]} locations of {level} of item {index}")
            found[level] = _tensor(view[:, top : top + height, left : left + width])
        return found

    def batch(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """Return several items of equal shapes as one batch: a dict of level to a tensor B x C x H x W."""
        items = [self[index] for index in indices]
        return {level: torch.stack([item[level] for item in items]) for level in self._shapes}

    def _view(self, level: str, index: int) -> np.ndarray:
        if not -len(self) <= index < len(self):
            raise IndexError(f"index must be from 0 to {len(self) - 1}; got {index}")
        index %= len(self)
        shape = self._shapes[level][index if level in self._starts else 0]
        size = math.prod(shape)
        start = int(self._starts[level][index]) if level in self._starts else index * size
        return self._arrays[level][start : start + size].reshape(shape)

    def __reduce__(self):
        if self.path is None:
            return FeatureCache, (self._header, self._arrays)
        return FeatureCache.open, (self.path, self.fingerprint)  # a worker maps the files itself

    @staticmethod
    def open(path: str, fingerprint: Mapping[str, str]) -> "FeatureCache":
        """Return the finished cache in the folder ``path``.

        Raises:
            UserError: there is none, it is not finished, damaged, or of another fingerprint.
        """
        header = files.read_header(path)
        if header is None:
            raise UserError(f"{path} must be a feature cache; it is none. Build it first.")
        files.refuse_other(path, header, {"fingerprint": dict(fingerprint)})
        done = files.read_done(path)
        if done < header["items"]:
            raise UserError(f"{path} must be a whole feature cache; got {done} of {header['items']} items. Build it.")
        return FeatureCache(header, files.map_levels(path, header, "r"), path)

    @staticmethod
    def build(
        path: str | None,
        fingerprint: Mapping[str, str],
        items: Sequence[Any],
        compute: Callable[[list[Any]], Mapping[str, Tensor]],
        limit_bytes: int,
        *,
        dtype: str = "float32",
        batch_size: int = 1,
        shapes: Callable[[Any], Shapes] | None = None,
        other: str = "refuse",
        say: Callable[[str], None] = lambda sentence: None,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> "FeatureCache":
        """Return the cache of ``items``: the one in ``path``, finished where it was killed; else a new one.

        Two processes that build one folder wait for each other.

        Args:
            path: the folder; None for a cache in memory.
            fingerprint: what the features depend on, from :func:`~adet_ext.nas.fingerprint.fingerprint`.
            compute: is given up to ``batch_size`` items and returns a dict of level to a tensor B x C x H x W. It runs
                without gradients; put the backbone into evaluation mode before.
            limit_bytes: the largest size allowed.
            dtype: "float32" or "float16", in which numbers are kept.
            shapes: gives the shape C x H x W of each level of an item, where items differ. A batch then ends where
                the shapes change. None: all items have the shapes of the first.
            other: what to do with a folder of another fingerprint. "refuse": raise; "beside": use a folder beside it,
                whose name ends in a hash of this fingerprint.
            say: is told the size, in a sentence, before anything is made.
            progress: is called with the number of finished items and N, after every batch.

        Raises:
            UserError: no items, a size above the limit or the free disk, a folder of something else, features that
                are not finite in ``dtype`` or not of the shapes told.
        """
        if dtype not in files.DTYPES:
            raise UserError(f"dtype must be one of {', '.join(files.DTYPES)}; got {dtype!r}. Name one of them.")
        if other not in ("refuse", "beside"):
            raise UserError(f"other must be refuse or beside; got {other!r}. Name one of them.")
        if not len(items):
            raise UserError("A feature cache must have items; got none. Check the data set.")
        wanted = {"fingerprint": dict(fingerprint), "dtype": dtype, "items": len(items)}
        plan = _Plan(wanted, items, compute, shapes, batch_size, progress)
        if path is None:
            return _in_memory(plan, limit_bytes, say)
        path = files.folder_for(path, wanted, other)
        header = files.read_header(path)
        if header is not None:  # before anything is written: a finished cache may be in a folder that cannot be
            files.refuse_other(path, header, wanted)
        elif os.path.isdir(path):
            files.refuse_foreign(path)
        if header is None or files.read_done(path) < len(items):
            with files.locked(make_folder(path), say):
                _in_files(path, plan, limit_bytes, say)
        return FeatureCache.open(path, fingerprint)


def _in_memory(plan: "_Plan", limit_bytes: int, say: Callable[[str], None]) -> FeatureCache:
    header = plan.header()
    files.check_size(header, limit_bytes, None, say)
    dtype = files.DTYPES[header["dtype"]]
    cache = FeatureCache(header, {level: np.empty(files.count(header, level), dtype) for level in header["shapes"]})
    for _ in plan.fill(cache, 0):
        pass
    return cache


def _in_files(path: str, plan: "_Plan", limit_bytes: int, say: Callable[[str], None]) -> None:
    header = files.read_header(path)  # another process may have made it in the meantime
    if header is None:
        header = plan.header()
        files.check_size(header, limit_bytes, path, say)
        files.create(path, header)
    files.refuse_other(path, header, plan.wanted)
    done = files.read_done(path)
    if done:
        say(f"feature cache at {path}: {done} of {header['items']} items are there")
    if done >= header["items"]:
        return
    arrays, written = files.map_levels(path, header, "r+"), time.monotonic()
    try:
        for finished in plan.fill(FeatureCache(header, arrays, path), done):
            done = finished
            if time.monotonic() - written > _SECONDS:
                files.write_done(path, arrays, done)
                written = time.monotonic()
    finally:  # also after Ctrl-C or an image that cannot be read
        files.write_done(path, arrays, done)


class _Plan:
    """What is to be computed, and the loop that does it."""

    def __init__(self, wanted: dict, items, compute, shapes, batch_size: int, progress):
        self.wanted, self.items, self.progress = wanted, items, progress
        self._compute, self._shapes, self._batch_size = compute, shapes, max(1, batch_size)

    def header(self) -> dict:
        """Return fingerprint, dtype, number of items and shapes; without ``shapes``, one item is computed for it."""
        if self._shapes is not None:
            each = [self._shapes(item) for item in self.items]
            columns = {level: [list(map(int, one[level])) for one in each] for level in each[0]}
            columns = {level: c[:1] if all(shape == c[0] for shape in c) else c for level, c in columns.items()}
        else:
            with torch.no_grad():
                first = self._compute([self.items[0]])
            columns = {level: [list(tensor.shape[1:])] for level, tensor in first.items()}
        return {"format": 1, **self.wanted, "shapes": columns}

    def fill(self, cache: FeatureCache, start: int) -> Iterator[int]:
        """Compute the items from ``start`` on into the arrays of ``cache``; yield how many are finished."""
        total = len(self.items)
        while start < total:
            end, shapes = start + 1, cache.shapes(start)
            while end < min(total, start + self._batch_size) and cache.shapes(end) == shapes:
                end += 1
            with torch.no_grad():
                found = self._compute([self.items[index] for index in range(start, end)])
            got = {level: tuple(tensor.shape) for level, tensor in found.items()}
            want = {level: (end - start, *shape) for level, shape in shapes.items()}
            if got != want:
                raise UserError(
                    f"The features of item {start} must have the shapes {want}; got {got}. "
                    "Resize all images to one size, or give the shapes of every item."
                )
            for level, tensor in found.items():
                self._put(cache, level, start, tensor)
            start = end
            self.progress(start, total)
            yield start

    @staticmethod
    def _put(cache: FeatureCache, level: str, start: int, tensor: Tensor) -> None:
        for offset, one in enumerate(tensor.detach().float().cpu().numpy()):
            view = cache._view(level, start + offset)
            with np.errstate(over="ignore"):
                view[...] = one
            if not np.isfinite(view).all():
                finite = bool(np.isfinite(one).all())
                cure = "Keep them as float32" if finite else "Check the weights and the image"
                raise UserError(f"{level} of item {start + offset} must be finite in {cache.dtype}; it is not. {cure}.")


def _tensor(view: np.ndarray) -> Tensor:
    return torch.from_numpy(view.astype(np.float32))  # a copy: nobody writes into the cache

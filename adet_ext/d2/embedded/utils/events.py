"""Scalars and pictures of a training run: a storage that collects them, and writers that read it."""

import datetime
import json
import logging
import os
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import numpy as np
import torch
from fvcore.common.history_buffer import HistoryBuffer

from .file_io import PathManager

_ACTIVE: list["EventStorage"] = []


def get_event_storage() -> "EventStorage":
    """Return the innermost storage whose ``with`` block is running."""
    if not _ACTIVE:
        raise AssertionError("get_event_storage() works inside a `with EventStorage():` block only")
    return _ACTIVE[-1]


def has_event_storage() -> bool:
    """Whether a storage's ``with`` block is running."""
    return bool(_ACTIVE)


class EventStorage:
    """Histories of named scalars, each value with its iteration, and pictures for the next writer.

    ``iter`` is the iteration of new values; the trainer keeps it equal to its own.
    """

    def __init__(self, start_iter: int = 0):
        self.iter = start_iter
        self._histories: dict[str, HistoryBuffer] = defaultdict(HistoryBuffer)
        self._hints: dict[str, bool] = {}
        self._latest: dict[str, tuple[float, int]] = {}
        self._prefix = ""
        self._images: list[tuple[str, Any, int]] = []

    def step(self) -> None:
        """Go to the next iteration, if no trainer sets ``iter``."""
        self.iter += 1

    def put_scalar(self, name: str, value: float, smoothing_hint: bool = True, cur_iter: int | None = None) -> None:
        """Add a value.

        ``smoothing_hint`` says that it is noisy and that writers should show a median. It must be the same for all
        values of one name.
        """
        name = self._prefix + name
        if self._hints.setdefault(name, smoothing_hint) != smoothing_hint:
            raise AssertionError(f"scalar {name!r} was put before with smoothing_hint={self._hints[name]}")
        value, iteration = float(value), self.iter if cur_iter is None else cur_iter
        self._histories[name].update(value, iteration)
        self._latest[name] = (value, iteration)

    def put_scalars(self, *, smoothing_hint: bool = True, cur_iter: int | None = None, **kwargs: float) -> None:
        """Add several values at once, by keyword."""
        for name, value in kwargs.items():
            self.put_scalar(name, value, smoothing_hint=smoothing_hint, cur_iter=cur_iter)

    def put_image(self, img_name: str, img_tensor: torch.Tensor | np.ndarray) -> None:
        """Keep an RGB picture (3, H, W), uint8 or floats in [0, 1], for the TensorBoard writer."""
        self._images.append((img_name, img_tensor, self.iter))

    def clear_images(self) -> None:
        """Remove the pictures after a writer has written them."""
        self._images = []

    def history(self, name: str) -> HistoryBuffer:
        """Return all values of one scalar. Raise KeyError if there are none."""
        if name not in self._histories:
            raise KeyError(f"no scalar named {name!r} was put into the event storage")
        return self._histories[name]

    def histories(self) -> dict[str, HistoryBuffer]:
        """Return all values of all scalars."""
        return self._histories

    def smoothing_hints(self) -> dict[str, bool]:
        """Return whether each scalar is noisy."""
        return self._hints

    def latest(self) -> dict[str, tuple[float, int]]:
        """Return the newest (value, iteration) of each scalar."""
        return self._latest

    def latest_with_smoothing_hint(self, window_size: int = 20) -> dict[str, tuple[float, int]]:
        """Return :meth:`latest`, but the median of the last ``window_size`` iterations for noisy scalars."""
        return {
            name: (self.median(name, window_size) if self._hints[name] else value, iteration)
            for name, (value, iteration) in self._latest.items()
        }

    def median(self, name: str, window_size: int) -> float:
        """Return the median of a scalar in the last ``window_size`` iterations."""
        return self._histories[name].median(self.count_samples(name, window_size))

    def count_samples(self, name: str, window_size: int = 20) -> int:
        """Return how many values of a scalar the last ``window_size`` iterations have."""
        values = self._histories[name].values()
        count = 0
        for _, iteration in reversed(values):
            if iteration <= values[-1][1] - window_size:
                break
            count += 1
        return count

    @contextmanager
    def name_scope(self, name: str) -> Iterator[None]:
        """Put ``name/`` before the names of all scalars that are added in the block."""
        outer, self._prefix = self._prefix, name.rstrip("/") + "/"
        try:
            yield
        finally:
            self._prefix = outer

    def __enter__(self) -> "EventStorage":
        _ACTIVE.append(self)
        return self

    def __exit__(self, *exception) -> None:
        _ACTIVE.pop()


class EventWriter:
    """Write the new values of the active storage at each call of :meth:`write`."""

    def write(self) -> None:
        raise NotImplementedError(f"{type(self).__name__} must define write()")

    def close(self) -> None:
        """Finish writing. It is called once, after the last :meth:`write`."""


class _ScalarWriter(EventWriter):
    """Write every value once, and noisy scalars as medians of a window of iterations."""

    def __init__(self, window_size: int):
        self._window_size = window_size
        self._last_write = -1

    def _news(self) -> list[tuple[str, float, int]]:
        """Return name, value and iteration of all scalars since the last call."""
        latest = get_event_storage().latest_with_smoothing_hint(self._window_size).items()
        news = [(name, value, iteration) for name, (value, iteration) in latest if iteration > self._last_write]
        self._last_write = max((iteration for _, _, iteration in news), default=self._last_write)
        return news


class JSONWriter(_ScalarWriter):
    """Append one JSON line for each iteration with new values."""

    def __init__(self, json_file: str, window_size: int = 20):
        super().__init__(window_size)
        _drop_partial_line(json_file)
        self._file = PathManager.open(json_file, "a")

    def write(self) -> None:
        lines: dict[int, dict[str, float]] = defaultdict(dict)
        for name, value, iteration in self._news():
            lines[iteration][name] = value
        for iteration, line in lines.items():
            self._file.write(json.dumps({**line, "iteration": iteration}, sort_keys=True) + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


def _drop_partial_line(path: str) -> None:
    """Cut off an incomplete last line of a killed run or a full disk, to which the next line would be joined."""
    if not os.path.isfile(path):
        return
    with open(path, "rb+") as file:
        content = file.read()
        file.truncate(content.rfind(b"\n") + 1)


class TensorboardXWriter(_ScalarWriter):
    """Write scalars and pictures as TensorBoard events; ``kwargs`` go to torch's SummaryWriter."""

    def __init__(self, log_dir: str, window_size: int = 20, **kwargs: Any):
        super().__init__(window_size)
        self._arguments = {"log_dir": log_dir, **kwargs}

    @cached_property
    def _writer(self):
        from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter(**self._arguments)

    def write(self) -> None:
        for name, value, iteration in self._news():
            self._writer.add_scalar(name, value, iteration)
        storage = get_event_storage()
        for name, image, iteration in storage._images:
            self._writer.add_image(name, image, iteration)
        storage.clear_images()

    def close(self) -> None:
        if "_writer" in self.__dict__:
            self._writer.close()


class CommonMetricPrinter(EventWriter):
    """Log one line: time left, iteration, losses (medians), timings, learning rate, GPU memory."""

    def __init__(self, max_iter: int | None = None, window_size: int = 20):
        self.logger = logging.getLogger(__name__)
        self._max_iter = max_iter
        self._window_size = window_size
        self._last_write: tuple[int, float] | None = None

    def _eta(self, storage: EventStorage) -> str:
        if self._max_iter is None:
            return ""
        left = self._max_iter - storage.iter - 1
        now, last = time.perf_counter(), self._last_write
        self._last_write = (storage.iter, now)
        if "time" in storage.histories():
            seconds = storage.history("time").median(1000) * left
            storage.put_scalar("eta_seconds", seconds, smoothing_hint=False)
        elif last is not None and storage.iter > last[0]:  # without the timer hook, a coarser estimate
            seconds = (now - last[1]) / (storage.iter - last[0]) * left
        else:
            return ""
        return str(datetime.timedelta(seconds=int(seconds)))

    def write(self) -> None:
        storage = get_event_storage()
        if storage.iter == self._max_iter:
            return  # it is called once more after training, without new values
        histories = storage.histories()

        def medians(part: str) -> str:
            return "  ".join(
                f"{name}: {storage.median(name, self._window_size):.4g}" for name in list(histories) if part in name
            )

        eta = self._eta(storage)
        fields = [f" eta: {eta}  iter: {storage.iter}" if eta else f" iter: {storage.iter}"]
        fields += [medians("loss"), medians("[metric]")]
        if "time" in histories:
            timings = histories["time"]
            fields += [f"time: {timings.global_avg():.4f}", f"last_time: {timings.latest():.4f}"]
        if "data_time" in histories:
            timings = histories["data_time"]
            average = timings.avg(storage.count_samples("data_time", self._window_size))
            fields += [f"data_time: {average:.4f}", f"last_data_time: {timings.latest():.4f}"]
        rate = f"{histories['lr'].latest():.5g}" if "lr" in histories else "N/A"
        memory = ""
        if torch.cuda.is_available():
            memory = f"max_mem: {torch.cuda.max_memory_allocated() / 2**20:.0f}M"
        # Scripts parse Detectron2's line, so its spacing is kept: two spaces also around an empty field.
        self.logger.info("%s   lr: %s  %s", "  ".join(fields), rate, memory)

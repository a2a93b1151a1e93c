"""Utilities: ``comm`` and ``events`` are modules, the rest are names."""

from fvcore.common.registry import Registry

from . import ENGINE

if ENGINE == "detectron2":
    from detectron2.utils import comm, events, logger
    from detectron2.utils.events import (
        CommonMetricPrinter,
        EventStorage,
        EventWriter,
        JSONWriter,
        TensorboardXWriter,
        get_event_storage,
        has_event_storage,
    )
    from detectron2.utils.file_io import PathHandler, PathManager
    from detectron2.utils.logger import create_small_table, setup_logger
else:
    from .embedded.utils import comm, events, logger
    from .embedded.utils.events import (
        CommonMetricPrinter,
        EventStorage,
        EventWriter,
        JSONWriter,
        TensorboardXWriter,
        get_event_storage,
        has_event_storage,
    )
    from .embedded.utils.file_io import PathHandler, PathManager
    from .embedded.utils.logger import create_small_table, setup_logger

__all__ = [
    "CommonMetricPrinter",
    "EventStorage",
    "EventWriter",
    "JSONWriter",
    "PathHandler",
    "PathManager",
    "Registry",
    "TensorboardXWriter",
    "comm",
    "create_small_table",
    "events",
    "get_event_storage",
    "has_event_storage",
    "logger",
    "setup_logger",
]

"""Utilities: ``comm`` and ``events`` are modules, the rest are names."""

from fvcore.common.registry import Registry

from . import ENGINE

if ENGINE == "detectron2":
    from detectron2.utils import comm, events, logger, visualizer
    from detectron2.utils.collect_env import collect_env_info
    from detectron2.utils.env import seed_all_rng
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
    from detectron2.utils.visualizer import ColorMode, VisImage, Visualizer
else:
    from .embedded.utils import comm, events, logger, visualizer
    from .embedded.utils.env import collect_env_info, seed_all_rng
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
    from .embedded.utils.visualizer import ColorMode, VisImage, Visualizer

__all__ = [
    "ColorMode",
    "CommonMetricPrinter",
    "EventStorage",
    "EventWriter",
    "JSONWriter",
    "PathHandler",
    "PathManager",
    "Registry",
    "TensorboardXWriter",
    "VisImage",
    "Visualizer",
    "collect_env_info",
    "comm",
    "create_small_table",
    "events",
    "get_event_storage",
    "has_event_storage",
    "logger",
    "seed_all_rng",
    "setup_logger",
    "visualizer",
]

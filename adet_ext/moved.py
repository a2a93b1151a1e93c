"""Old import paths of moved modules, kept for one version: importing one warns and returns the module's new place."""

import importlib
import importlib.abc
import importlib.machinery
import sys
import warnings
from types import ModuleType

__all__ = ["install"]

_MOVED = {
    "ablation": "experiments.study",
    "charts": "report.charts",
    "checkpoint": "engine.checkpoint",
    "coco_json": "evaluation.coco_json",
    "cost": "benchmark.cost",
    "drawing": "visualize.drawing",
    "explain": "visualize.explain",
    "files": "utils.files",
    "fonts": "visualize.fonts",
    "gallery": "report.gallery",
    "image_io": "utils.image_io",
    "instance_maps": "visualize.instance_maps",
    "lvis_evaluation": "evaluation.lvis",
    "machine": "utils.machine",
    "metrics": "report.metrics",
    "predictor": "engine.predictor",
    "progress": "engine.progress",
    "quick": "experiments.run",
    "report_page": "report.page",
    "train": "engine.trainer",
    "video": "utils.video",
    "visualize_blend": "visualize.blending",
    "visualize_maps": "visualize.maps",
}


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name: str, path=None, target=None) -> importlib.machinery.ModuleSpec | None:
        package, _, old = name.rpartition(".")
        if package != __package__ or old not in _MOVED:
            return None
        return importlib.machinery.ModuleSpec(name, self)

    def exec_module(self, module: ModuleType) -> None:
        name = module.__name__
        new = f"{__package__}.{_MOVED[name.rpartition('.')[2]]}"
        warnings.warn(f"{name} has moved to {new}; the old path goes in the next version", FutureWarning, stacklevel=2)
        sys.modules[name] = importlib.import_module(new)


def install() -> None:
    """Serve the old paths from now on."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder())

"""Versions, the engine that is on and why, and which operators are native."""

import argparse
import importlib.metadata
import json
import os
import platform
import sys
from collections.abc import Sequence
from typing import Any

import torch

from ..errors import UserError
from ..utils.machine import processor_name

__all__ = ["collect", "main"]

PACKAGES = (
    "torch",
    "torchvision",
    "detectron2",
    "numpy",
    "fvcore",
    "iopath",
    "pycocotools",
    "faster-coco-eval",
    "opencv-python-headless",
    "pillow",
    "safetensors",
    "tensorboard",
    "matplotlib",
    "av",
    "onnx",
    "ray",
)


def collect() -> dict[str, dict[str, Any]]:
    """The report as sections of names and values."""
    return {
        "adet_ext": _own(),
        "engine": _engine(),
        "packages": {name: _installed(name) for name in PACKAGES},
        "machine": _machine(),
        "compiled operators": _extension(),
        "operators": _operators(),
    }


def _own() -> dict[str, Any]:
    import adet_ext

    try:
        from ..model_zoo import config_folder

        configs = str(config_folder())
    except UserError as error:
        configs = f"missing: {error}"
    return {
        "version": adet_ext.__version__,
        "package": os.path.dirname(os.path.abspath(adet_ext.__file__)),
        "configs": configs,
        "DETECTRON2_DATASETS": os.environ.get("DETECTRON2_DATASETS", "not set: ./datasets"),
    }


def _engine() -> dict[str, Any]:
    from ..d2 import DETECTRON2_ERROR, ENGINE, REASON

    report = {"on": ENGINE, "because": REASON}
    if DETECTRON2_ERROR and DETECTRON2_ERROR != REASON:
        report["detectron2"] = DETECTRON2_ERROR
    return report


def _installed(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _machine() -> dict[str, Any]:
    report = {
        "python": f"{platform.python_version()} ({sys.executable})",
        "system": platform.platform(),
        "processor": processor_name(),
        "cores": os.cpu_count(),
        "threads of torch": torch.get_num_threads(),
        "CUDA of torch": torch.version.cuda or "none",
        "cuDNN": torch.backends.cudnn.version() if torch.version.cuda else "none",
    }
    if torch.cuda.is_available():
        for i in range(torch.cuda.device_count()):
            gpu = torch.cuda.get_device_properties(i)
            report[f"GPU {i}"] = f"{gpu.name}, {gpu.total_memory / 2**30:.0f} GiB, {gpu.major}.{gpu.minor}"
    else:
        report["GPU"] = "none visible"
    return report


def _extension() -> dict[str, Any]:
    from ..layers.extension import status

    found = status()
    report = {"loaded": "yes" if found.loaded else "no", "because": found.reason}
    if found.path:
        report["library"] = found.path
    return report


def _operators() -> dict[str, Any]:
    """Each operator that models call: native, and for which devices, or the plain-PyTorch reference."""
    import torchvision  # noqa: F401  (registers its operators)

    from ..layers.extension import native_operators

    native = native_operators()
    ours = {name.split("::")[1] for name in torch._C._dispatch_get_all_op_names() if name.startswith("adet_ext::")}
    report = {}
    for name in sorted(ours):
        report[f"adet_ext.{name}"] = "native" if name in native else "reference (plain PyTorch)"
    for name in ("nms", "roi_align", "roi_pool", "deform_conv2d"):
        has_kernel = torch._C._dispatch_has_kernel_for_dispatch_key
        devices = [device for device in ("CPU", "CUDA") if has_kernel(f"torchvision::{name}", device)]
        report[f"torchvision.{name}"] = f"native ({', '.join(devices)})" if devices else "missing"
    return report


def main(argv: Sequence[str] | None = None) -> int:
    """Print the report."""
    parser = argparse.ArgumentParser(description="Report versions, the engine and the native operators.")
    parser.add_argument("--json", action="store_true", help="as JSON")
    arguments = parser.parse_args(argv)
    report = collect()
    if arguments.json:
        print(json.dumps(report, indent=2))
        return 0
    width = max(len(name) for section in report.values() for name in section)
    for title, section in report.items():
        print(title)
        for name, value in section.items():
            print(f"  {name:<{width}}  {value}")
    return 0

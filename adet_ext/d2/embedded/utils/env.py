"""Seeds, and a table of a run's environment."""

import importlib
import logging
import os
import random
import sys

import numpy as np
import torch
from tabulate import tabulate


def seed_all_rng(seed: int | None = None) -> None:
    """Seed Python, NumPy and PyTorch (all devices); ``None`` draws a seed and logs it."""
    if seed is None:
        seed = int.from_bytes(os.urandom(4), "big") >> 1
        logging.getLogger(__name__).info("Using a generated random seed %d", seed)
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)  # seeds every CUDA device too
    os.environ["PYTHONHASHSEED"] = str(seed)


def _version(module_name: str) -> str:
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        return f"not importable: {error}"
    return f"{getattr(module, '__version__', '?')} @{os.path.dirname(module.__file__ or '')}"


def collect_env_info() -> str:
    """Return a table of the platform, relevant versions and GPUs as a multi-line string."""
    rows = [("sys.platform", sys.platform), ("Python", sys.version.replace("\n", ""))]
    modules = ("numpy", "torch", "torchvision", "fvcore", "iopath", "cv2", "PIL", "pycocotools")
    rows += [(name, _version(name)) for name in modules]
    rows.append(("CUDA of PyTorch", torch.version.cuda or "none"))
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            capability = ".".join(map(str, torch.cuda.get_device_capability(index)))
            rows.append((f"GPU {index}", f"{torch.cuda.get_device_name(index)} (arch={capability})"))
    else:
        rows.append(("GPU", "none"))
    rows.append(("CPU threads", torch.get_num_threads()))
    return tabulate(rows)

"""Load the compiled operators, adet_ext/_C, and report the result.

The library registers its operators under ``torch.ops.adet_ext``. It is built against torch's stable ABI, so one
library serves all torch versions from ``MIN_TORCH`` on. Without it the plain-PyTorch references compute the same
numbers, more slowly.
"""

import contextlib
import functools
import logging
import os
import re
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path

import torch

__all__ = ["MIN_TORCH", "ExtensionStatus", "native_operators", "references_only", "serves", "status"]

# The oldest torch whose stable ABI has what csrc/ uses, which setup.py reads from here.
MIN_TORCH = (2, 10)

_PACKAGE = Path(__file__).resolve().parent.parent

# Device types that the loaded library has a kernel for, by operator; "meta" if it has any. Filled on loading: a
# compiler that traces a call cannot ask the dispatcher.
_DEVICES: dict[str, frozenset[str]] = {}

_REFERENCES_ONLY: ContextVar[bool] = ContextVar("references_only", default=False)


@dataclass(frozen=True)
class ExtensionStatus:
    """The result of loading the compiled operators.

    Attributes:
        loaded: whether they can be called.
        reason: why they are not loaded, or what was loaded.
        path: the library, or None.
        build: how it was built: compiler, built_with_torch, runs_on_torch, cuda, cuda_archs.
        operators: names of the operators it registered, sorted.
    """

    loaded: bool
    reason: str
    path: str | None = None
    build: dict[str, str] = field(default_factory=dict)
    operators: tuple[str, ...] = ()


@functools.cache
def status() -> ExtensionStatus:
    """Load the compiled operators on the first call; later calls return the same result.

    Warn if a library exists but does not load. A missing library is a supported installation and gives no warning;
    ``python -m adet_ext env`` reports it.
    """
    wish = os.environ.get("ADET_EXT_OPS", "auto").strip().lower() or "auto"
    if wish not in ("auto", "reference"):
        raise ValueError(f"ADET_EXT_OPS must be auto or reference; got {wish!r}")
    path = _find_library(_PACKAGE)
    if wish == "reference":
        return ExtensionStatus(False, "ADET_EXT_OPS=reference", path)
    if path is None:
        return ExtensionStatus(False, _why_not_built(_PACKAGE))
    found = _load(path)
    if not found.loaded:
        logging.getLogger(__name__).warning(
            "The compiled operators in %s do not load: %s. The plain-PyTorch references serve instead.",
            path,
            found.reason,
        )
    return found


def native_operators() -> list[str]:
    """Return the names of the compiled operators without ``adet_ext::``, sorted."""
    return list(status().operators)


def serves(operator: str, tensor: torch.Tensor) -> bool:
    """Return whether the compiled library has a kernel of ``operator`` that runs on the device of ``tensor``."""
    device = tensor.device
    if _REFERENCES_ONLY.get():
        return False
    if device.type not in _DEVICES.get(operator, ()):
        return False
    return device.type != "cuda" or _runs_on(device.index or 0)


@contextlib.contextmanager
def references_only() -> Iterator[None]:
    """Let the plain-PyTorch references serve within the context, in this thread: for graphs that leave this package."""
    token = _REFERENCES_ONLY.set(True)
    try:
        yield
    finally:
        _REFERENCES_ONLY.reset(token)


@torch.compiler.assume_constant_result
@functools.cache
def _runs_on(index: int) -> bool:
    """Whether the kernels were compiled for this GPU."""
    return torch.ops.adet_ext.runs_on(index)


def _kernel_devices(operator: str) -> frozenset[str]:
    has_kernel = torch._C._dispatch_has_kernel_for_dispatch_key
    devices = [d for d in ("cpu", "cuda") if has_kernel(f"adet_ext::{operator}", d.upper())]
    return frozenset([*devices, "meta"] if devices else [])


def _registered() -> set[str]:
    names = torch._C._dispatch_get_all_op_names()
    return {name.removeprefix("adet_ext::") for name in names if name.startswith("adet_ext::")}


def _find_library(folder: Path) -> str | None:
    for name in ("_C.so", "_C.pyd"):
        if (folder / name).is_file():
            return str(folder / name)
    return None


def _why_not_built(folder: Path) -> str:
    """Return the note that setup.py leaves if it does not build."""
    try:
        note = (folder / "_build.txt").read_text(encoding="utf-8").strip()
    except OSError:
        return "not built; 'pip install .' builds them if there is a C++ compiler"
    return note.removeprefix("no compiled operators: ")


@functools.cache  # a library registers its operators once, whoever asks again
def _load(path: str) -> ExtensionStatus:
    running = tuple(int(part) for part in re.findall(r"\d+", torch.__version__)[:2])
    if running < MIN_TORCH:
        needed = ".".join(str(part) for part in MIN_TORCH)
        return ExtensionStatus(False, f"they need torch >= {needed}, and this is torch {torch.__version__}", path)
    before = _registered()  # operators of ours that are defined in Python
    try:
        torch.ops.load_library(path)
        text = torch.ops.adet_ext.build_info()
    except (OSError, RuntimeError, AttributeError) as error:  # missing symbols, a missing CUDA runtime, another file
        lines = str(error).strip().splitlines() or ["no message"]
        return ExtensionStatus(False, lines[0], path)
    build = dict(item.split("=", 1) for item in text.split("; "))
    cuda = "no CUDA" if build["cuda"] == "none" else f"CUDA {build['cuda']} for {build['cuda_archs']}"
    reason = f"{build['compiler']}, torch {build['built_with_torch']}, {cuda}"
    operators = tuple(sorted(_registered() - before))
    _DEVICES.update((name, _kernel_devices(name)) for name in operators)
    return ExtensionStatus(True, reason, path, build, operators)

"""Loading of the compiled operators, adet_ext/_C, and the account of what came of it.

The library registers its operators under ``torch.ops.adet_ext``. It is built against torch's stable ABI, so one
library serves all torch versions from ``MIN_TORCH`` on. Without it the plain-PyTorch references serve: slower, the same
numbers.
"""

import functools
import logging
import os
import re
from dataclasses import dataclass, field
from pathlib import Path

import torch

__all__ = ["MIN_TORCH", "ExtensionStatus", "status", "kernel_devices", "native_operators"]

MIN_TORCH = (2, 10)

_PACKAGE = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class ExtensionStatus:
    """What came of loading the compiled operators.

    Attributes:
        loaded: whether they are there to be called.
        reason: why they are not, or what was loaded; half a sentence.
        path: the library, if there is one.
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
    """Load the compiled operators on the first call; the same answer ever after.

    A library that is there but does not load is named in a warning; one that was never built is not, since
    that is a way to install this package (``python -m adet_ext env`` tells).
    """
    wish = os.environ.get("ADET_EXT_OPS", "auto").strip().lower() or "auto"
    if wish not in ("auto", "reference"):
        raise ValueError(f"ADET_EXT_OPS is {wish!r}; set it to auto or reference")
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
    """Names of the operators that the compiled library brought, without the ``adet_ext::``; sorted."""
    return list(status().operators)


def kernel_devices(operator: str) -> frozenset[str]:
    """Kinds of device that the compiled library has a kernel of ``operator`` for.

    To be asked on import: a compiler that traces a call cannot.
    """
    has_kernel = torch._C._dispatch_has_kernel_for_dispatch_key
    known = operator in status().operators
    return frozenset(d for d in ("cpu", "cuda") if known and has_kernel(f"adet_ext::{operator}", d.upper()))


def _registered() -> set[str]:
    names = torch._C._dispatch_get_all_op_names()
    return {name.removeprefix("adet_ext::") for name in names if name.startswith("adet_ext::")}


def _find_library(folder: Path) -> str | None:
    for name in ("_C.so", "_C.pyd"):
        if (folder / name).is_file():
            return str(folder / name)
    return None


def _why_not_built(folder: Path) -> str:
    """The note that setup.py left where it built nothing."""
    try:
        note = (folder / "_build.txt").read_text(encoding="utf-8").strip()
    except OSError:
        return "not built; 'pip install .' builds them where there is a C++ compiler"
    return note.removeprefix("no compiled operators: ")


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
    return ExtensionStatus(True, reason, path, build, tuple(sorted(_registered() - before)))

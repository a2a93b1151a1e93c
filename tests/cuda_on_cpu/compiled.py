"""What nvcc makes of the kernels of csrc/cuda: registers, spills, the stack and static shared memory of each.

To save minutes, only float32 and float16 are compiled, and code for both GPUs is made of one intermediate one.
"""

import hashlib
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.utils.cpp_extension import COMMON_NVCC_FLAGS

from .build import CSRC, KEPT, CannotBuild, macros, torch_includes

__all__ = ["ARCHITECTURES", "Compiled", "compiled_kernels", "demangled", "narrowed", "nvcc", "short_name"]

ARCHITECTURES = ("sm_80", "sm_90")

_ENTRY = re.compile(
    r"Compiling entry function '(\w+)' for '(\w+)'\n"
    r".*?\n *(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads\n.*?Used (\d+) registers(.*)"
)
_HALVES = {
    "__half": "half",
    "__nv_bfloat16": "bfloat16",
    "c10::Half": "half",
    "c10::BFloat16": "bfloat16",
    "torch::headeronly::Half": "half",
    "torch::headeronly::BFloat16": "bfloat16",
}


@dataclass(frozen=True)
class Compiled:
    """A kernel as ptxas reports it: registers of a thread, and bytes of its stack, its spills and shared memory."""

    registers: int
    stack: int
    spills: int
    shared: int


def nvcc() -> str:
    """Return the compiler; raise CannotBuild where it is missing."""
    path = shutil.which("nvcc")
    if path is None:
        raise CannotBuild("there is no nvcc")
    return path


def compiled_kernels(*, compile_all: bool = True) -> dict[tuple[str, str], Compiled]:
    """Compile csrc/cuda, or read what was kept of it; return the kernels by (:func:`short_name`, architecture).

    Without ``compile_all``, return those that were kept.
    """
    found, replaced = {}, narrowed()
    for source in sorted((CSRC / "cuda").glob("*.cu")):
        for symbol, architecture, stack, stores, loads, registers, rest in _ENTRY.findall(
            _report(source, replaced, compile_all)
        ):
            shared = re.search(r"(\d+) bytes smem", rest)
            spills = int(stores) + int(loads)
            kernel = Compiled(int(registers), int(stack), spills, int(shared[1]) if shared else 0)
            found[symbol, architecture] = kernel
    names = demangled([symbol for symbol, _ in found])
    return {(short_name(names[symbol]), architecture): kernel for (symbol, architecture), kernel in found.items()}


def short_name(name: str) -> str:
    """Return "kernel<float, 4>" for the demangled name of a kernel, with the same types for both compilers."""
    name = re.sub(r"^void ", "", name)
    name = re.sub(r"\((?:int|bool)\)", "", name.replace("(anonymous namespace)::", ""))
    name = re.sub(r"\btrue\b", "1", re.sub(r"\bfalse\b", "0", name))
    name = name[: _end_of_name(name)].strip()
    for long, short in _HALVES.items():
        name = name.replace(long, short)
    return re.sub(r"\w+::", "", name)


def demangled(symbols: list[str]) -> dict[str, str]:
    """Return the demangled names of symbols."""
    done = subprocess.run(["c++filt"], input="\n".join(symbols), capture_output=True, text=True, check=True)
    return dict(zip(symbols, done.stdout.splitlines()))


def _end_of_name(name: str) -> int:
    """Where the parameters begin: at the first parenthesis outside of all angle brackets."""
    depth = 0
    for i, letter in enumerate(name):
        depth += (letter == "<") - (letter == ">")
        if letter == "(" and depth == 0:
            return i
    return len(name)


def narrowed() -> dict[str, str]:
    """Return the sources, by path in csrc, that say for which types kernels are compiled: for two of four."""
    found = {name: (CSRC / name).read_text() for name in ("common.h", "cuda/dr1_conv.cu")}
    case = r"THO_DISPATCH_CASE\(torch::headeronly::ScalarType::(?:Double|BFloat16), __VA_ARGS__\)"
    found["common.h"] = re.sub(case, "", found["common.h"])
    found["cuda/dr1_conv.cu"] = re.sub(r"\n.*case ScalarType::BFloat16.*", "", found["cuda/dr1_conv.cu"])
    return found


def _report(source: Path, replaced: dict[str, str], may_compile: bool) -> str:
    """Return what ptxas says about a source, compiled as setup.py has it, without code for the host."""
    codes = ",".join(ARCHITECTURES)
    words = [nvcc(), "-fatbin", "-Xptxas", "-v", "-O3", "-std=c++20", *COMMON_NVCC_FLAGS]
    words += ["-gencode", f"arch=compute_80,code=[{codes}]"]
    sources = sorted([*CSRC.glob("*.h"), *(CSRC / "cuda").glob("*.cuh"), *(CSRC / "cuda").glob("*.h"), source])
    names = [path.relative_to(CSRC).as_posix() for path in sources]
    texts = {name: replaced.get(name) or path.read_text() for name, path in zip(names, sources)}
    digest = hashlib.sha256(repr([torch.__version__, words, texts]).encode()).hexdigest()[:16]
    kept = KEPT / f"ptxas-{source.stem}-{digest}.txt"
    if not kept.is_file() and not may_compile:
        return ""
    if not kept.is_file():
        tree = KEPT / f"nvcc-{digest}"
        for name, text in texts.items():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            (tree / name).write_text(text)
        words += [*macros(), *torch_includes(), "-o", os.devnull, str(tree / source.relative_to(CSRC))]
        done = subprocess.run(words, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"nvcc does not compile {source.name}:\n{done.stderr[:3000]}")
        kept.write_text(done.stderr)
    return kept.read_text()

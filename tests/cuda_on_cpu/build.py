"""Build csrc/cuda with the host compiler: a library whose operators, torch.ops.adet_emulated, run the CUDA kernels.

Objects are kept in build/cuda_on_cpu under a name made of all that they are compiled from: what did not change is not
compiled again. Only one process builds at a time; the others wait for it and find everything there.
"""

import functools
import hashlib
import os
import shutil
import subprocess
import sysconfig
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from .transform import host_source

__all__ = ["CSRC", "HERE", "KEPT", "VARIANTS", "CannotBuild", "compiler", "library", "macros", "torch_includes"]

HERE = Path(__file__).resolve().parent
CSRC = HERE.parents[1] / "csrc"
KEPT = HERE.parents[1] / "build" / "cuda_on_cpu"

_UNDEFINED = "-fsanitize=alignment,null,signed-integer-overflow,integer-divide-by-zero,shift,bounds"
_CHECKS = ["-O1", "-g1", "-fsanitize=thread", "--param=tsan-instrument-func-entry-exit=0", _UNDEFINED]
_COUNTS = ["-O1", "-g1", "-fsanitize=thread", "--param=tsan-instrument-func-entry-exit=0", "-fno-tree-sra"]
_ASAN = ["-O1", "-g1", "-fsanitize=address", "-fno-omit-frame-pointer"]

# Compiler options of the kernels, and of everything.
VARIANTS = {
    "checked": (["-ffp-contract=off", *_CHECKS], ["-DEMULATOR_CHECKS"]),
    "counted": (["-ffp-contract=off", *_COUNTS], ["-DEMULATOR_COUNTS"]),  # accesses are counted, for traffic.py
    "plain": (["-ffp-contract=off", "-O2"], []),
    "fused": (["-ffp-contract=fast", "-O2", "-mfma"], []),  # multiplies and adds with one rounding, as GPUs do
    "asan": (["-ffp-contract=off", *_ASAN], ["-DEMULATOR_ASAN"]),
}
_COMMON = ["-std=c++17", "-fPIC", "-fno-strict-aliasing", "-fvisibility=hidden", "-Wall", "-Wno-unknown-pragmas"]
# The device's functions of libtorch become those of launch.cpp.
_RENAMED = {
    "aoti_torch_create_device_guard": "emulated_create_device_guard",
    "aoti_torch_delete_device_guard": "emulated_delete_device_guard",
    "aoti_torch_get_current_cuda_stream": "emulated_current_stream",
    "torch_c10_cuda_check_msg": "emulated_check_msg",
    "torch_c10_cuda_free_error_msg": "emulated_free_error_msg",
}


class CannotBuild(Exception):
    """Why there is no library, as half a sentence."""


@functools.cache
def compiler() -> str:
    """Return the C++ compiler, GCC on x86-64; raise CannotBuild where it is missing."""
    path = shutil.which(os.environ.get("CXX") or "g++")
    if path is None:
        raise CannotBuild("there is no C++ compiler")
    machine = subprocess.run([path, "-dumpmachine"], capture_output=True, text=True).stdout.strip()
    named = subprocess.run([path, "--version"], capture_output=True, text=True).stdout
    if not machine.startswith("x86_64") or "linux" not in machine or "Free Software Foundation" not in named:
        raise CannotBuild(f"the emulator needs GCC on x86-64 Linux; got {path} for {machine or 'unknown'}")
    return path


def library(variant: str, sources: dict[str, str] | None = None) -> Path:
    """Build the library where it is missing, and return it. ``sources`` replaces texts of csrc, by path in it."""
    import fcntl  # not on Windows, where there is nothing to build

    kernels, everything = VARIANTS[variant]
    flags = [*_COMMON, *everything]
    KEPT.mkdir(parents=True, exist_ok=True)
    with (KEPT / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        tree, units = _write_sources(sources or {})
        paths = [f"-I{tree}", f"-I{HERE / 'shim'}", *torch_includes()]
        shim, own = _digest((HERE / "shim").iterdir()), _digest(HERE.glob("*.h"))
        renamed = [f"-D{name}={ours}" for name, ours in _RENAMED.items()]
        jobs = [(path, [*flags, *kernels, *macros(), *renamed, *paths], tree.name + shim) for path in units]
        for path in sorted(HERE.glob("*.cpp")):
            jobs.append((path, [*flags, "-O2", f"-I{HERE}", f"-I{HERE / 'shim'}", *torch_includes()], own + shim))
        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            made = list(pool.map(lambda job: _object(*job), jobs))
        return _link(made, everything + (["-fsanitize=address"] if variant == "asan" else []))


def _write_sources(replaced: dict[str, str]) -> tuple[Path, list[Path]]:
    """Write what is compiled of csrc, rewritten; return its folder and the sources in it."""
    found = [*CSRC.glob("*.h"), *CSRC.glob("*.cpp"), *(CSRC / "cuda").iterdir(), CSRC / "cpu" / "build_info.cpp"]
    texts = {}
    for path in sorted(found):
        name = path.relative_to(CSRC).as_posix()
        texts[name] = host_source(replaced.get(name) or path.read_text(), name)
    texts["cuda/faults.cu"] = host_source((HERE / "faults.cu").read_text(), "faults.cu")
    # Schemas are short, what they include is not: one unit for all.
    schemas = [name for name in texts if name.endswith(".cpp")]
    texts["schemas.cc"] = "".join(texts.pop(name) for name in schemas).replace('#include "../', '#include "')
    shared = {name: text for name, text in texts.items() if not name.endswith((".cu", ".cc"))}
    tree = KEPT / hashlib.sha256(repr(sorted(shared.items())).encode()).hexdigest()[:16]
    units = []
    for name, text in texts.items():
        path = tree / name.replace(".cu", ".cc") if not name.endswith(".cuh") else tree / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.is_file() or path.read_text() != text:
            path.write_text(text)
        if path.suffix == ".cc":
            units.append(path)
    # The longest first, for the end of the work to come at the same time everywhere.
    return tree, sorted(units, key=lambda path: -path.stat().st_size)


def macros() -> list[str]:
    """Return the compiler's options that define what setup.py defines."""
    from adet_ext.layers.extension import MIN_TORCH

    minimum = f"0x{MIN_TORCH[0]:02x}{MIN_TORCH[1]:02x}000000000000"
    text = f'-DADET_EXT_MIN_TORCH="{MIN_TORCH[0]}.{MIN_TORCH[1]}"'
    return [f"-DTORCH_TARGET_VERSION={minimum}", text, "-DUSE_CUDA", "-DADET_EXT_WITH_CUDA"]


def torch_includes() -> list[str]:
    """Return the compiler's options for torch's headers."""
    folder = Path(torch.__file__).parent / "include"
    return ["-isystem", str(folder), "-isystem", str(folder / "torch" / "csrc" / "api" / "include")]


def _digest(paths: Iterable[Path]) -> str:
    whole = hashlib.sha256()
    for path in sorted(paths):
        whole.update(path.name.encode() + path.read_bytes())
    return whole.hexdigest()


def _object(source: Path, flags: list[str], context: str) -> Path:
    """Compile a source where it is missing. ``context`` stands for all that it includes."""
    words = [torch.__version__, sysconfig.get_platform(), compiler(), *flags, context, source.read_text()]
    path = KEPT / f"{source.stem}-{hashlib.sha256(repr(words).encode()).hexdigest()[:16]}.o"
    if not path.is_file():
        part = path.with_suffix(".part")
        _run([compiler(), *flags, "-c", str(source), "-o", str(part)])
        part.rename(path)
    return path


def _link(objects: list[Path], flags: list[str]) -> Path:
    name = hashlib.sha256(repr([objects, flags]).encode()).hexdigest()[:16]
    path = KEPT / f"emulated-{name}.so"
    if not path.is_file():
        part = path.with_suffix(".part")
        torch_lib = Path(torch.__file__).parent / "lib"
        libraries = [f"-L{torch_lib}", "-ltorch_cpu", "-lc10", f"-Wl,-rpath,{torch_lib}"]
        _run([compiler(), "-shared", *flags, *map(str, objects), *libraries, "-o", str(part)])
        part.rename(path)
    return path


def _run(words: list[str]) -> None:
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(words[-3:])} fails:\n{done.stderr[:3000]}")

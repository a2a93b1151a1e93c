"""Run the CUDA kernels in place of those for the CPU: see README.md."""

import contextlib
import ctypes
import functools
import os
import re
import subprocess
from collections.abc import Callable, Iterator, Sequence

import torch

from adet_ext.layers.extension import native_operators

from .build import CannotBuild, compiler, library
from .transform import NAMESPACE

__all__ = ["Emulator", "emulated", "emulator", "tensors_of", "why_not"]


class Emulator:
    """The library of a variant (:data:`build.VARIANTS`), loaded. A process can load one."""

    def __init__(self, variant: str, sources: dict[str, str] | None = None):
        self.path = library(variant, sources)
        torch.ops.load_library(str(self.path))
        self._functions = ctypes.CDLL(str(self.path))
        self._functions.emulator_note.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
        self._functions.emulator_seed.argtypes = [ctypes.c_uint64]
        self._functions.emulator_end.restype = ctypes.c_int64
        self._functions.emulator_launches.restype = ctypes.c_int64
        self._functions.emulator_unchecked.restype = ctypes.c_char_p
        self.allocations = 0  # of the operators so far

    def operators(self) -> list[str]:
        """Return the names of the operators that have a kernel, in both libraries."""
        has = torch._C._dispatch_has_kernel_for_dispatch_key
        return [name for name in native_operators() if _has_cpu(has, f"{NAMESPACE}::{name}")]

    def seed(self, number: int) -> None:
        """Choose the order of blocks, threads and, with them, atomics."""
        self._functions.emulator_seed(number)

    def mutant(self, number: int) -> None:
        """Turn a planted fault on, 0 for none; see mutations.py."""
        self._functions.emulator_mutant(number)

    def launches(self) -> int:
        """Return how many kernels were launched since the last call."""
        return self._functions.emulator_launches()

    def unchecked(self) -> str | None:
        """Return the kernel whose launch was not followed by a check, and forget it."""
        name = self._functions.emulator_unchecked()
        return name.decode() if name else None

    def fault(self, name: str, numbers: Sequence[float] = range(128)) -> tuple[str, list[float]]:
        """Launch a kernel of faults.cu on 128 numbers; return what is wrong, and the 64 that it wrote."""
        source, to = (ctypes.c_float * 128)(*numbers), (ctypes.c_float * 64)()
        message = ctypes.create_string_buffer(1000)
        self._functions.emulator_begin()
        for array in (source, to):
            self._functions.emulator_note(ctypes.addressof(array), ctypes.sizeof(array))
        self._functions.emulator_fault(name.encode(), source, to, message, ctypes.c_size_t(len(message)))
        self._functions.emulator_end()
        return self._with_lines(message.value.decode()), list(to)

    def kernel(self, name: str) -> Callable:
        """Return the operator as a function that tells the emulator which memory it may use."""
        function = getattr(getattr(torch.ops, NAMESPACE), name)

        def call(*arguments):
            self._functions.emulator_begin()
            for tensor in tensors_of(arguments):
                storage = tensor.untyped_storage()
                self._functions.emulator_note(storage.data_ptr(), storage.nbytes())
            try:
                result = function(*arguments)
            except RuntimeError as error:
                raise RuntimeError(self._with_lines(str(error))) from None
            finally:
                self.allocations += self._functions.emulator_end()
                unchecked = self.unchecked()
            if unchecked:
                raise RuntimeError(f"the launch of kernel {unchecked} is not followed by a check")
            return result

        return call

    def _with_lines(self, text: str) -> str:
        """Replace addresses of code by places in the sources."""

        def place(match):
            words = ["addr2line", "-e", str(self.path), match[1]]
            found = subprocess.run(words, capture_output=True, text=True).stdout.strip()
            return f" at {re.sub('.*/', '', found.split(' ')[0]).replace('.cc:', '.cu:')}" if found else match[0]

        return re.sub(r" at code (0x[0-9a-f]+)", place, text)


def _has_cpu(has: Callable, name: str) -> bool:
    try:
        return has(name, "CPU")
    except RuntimeError:  # no operator of this name
        return False


def tensors_of(values) -> Iterator[torch.Tensor]:
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from tensors_of(value)


@functools.cache
def emulator() -> Emulator:
    """Return the emulator of the variant and with the seed in EMULATOR_VARIANT and EMULATOR_SEED."""
    made = Emulator(os.environ.get("EMULATOR_VARIANT", "checked"))
    made.seed(int(os.environ.get("EMULATOR_SEED", "0")))
    return made


@functools.cache
def why_not() -> str | None:
    """Return why the kernels cannot be emulated here, as half a sentence; None if they can."""
    if not native_operators():
        return "the compiled operators, whose place the kernels take, are not built"
    try:
        compiler()
    except CannotBuild as reason:
        return str(reason)
    return None


@contextlib.contextmanager
def emulated(machine: Emulator) -> Iterator[Emulator]:
    """Have the CUDA kernels compute the operators for tensors on the CPU."""
    override = torch.library.Library("adet_ext", "IMPL", "CPU")
    try:
        for name in machine.operators():
            override.impl(name, machine.kernel(name), allow_override=True)
        yield machine
    finally:
        override._destroy()

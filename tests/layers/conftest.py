"""Where the operators' tests run: on the CPU, on the CUDA kernels emulated on it, and on a GPU where there is one."""

import contextlib

import pytest
import torch

from tests.cuda_on_cpu.emulation import emulated, emulator, why_not


class Device(str):
    """The name of a device for PyTorch, and which kernels serve there: "cpu" or "cuda"."""

    kernels: str


@contextlib.contextmanager
def _on(place):
    name = Device("cuda" if place == "cuda" else "cpu")
    name.kernels = "cpu" if place == "cpu" else "cuda"
    if place == "cuda" and not torch.cuda.is_available():
        pytest.skip("no GPU")
    if place == "emulated" and why_not():
        pytest.skip(f"no emulated kernels: {why_not()}")
    with emulated(emulator()) if place == "emulated" else contextlib.nullcontext():
        yield name


@pytest.fixture(scope="module", params=["cpu", "emulated", "cuda"])
def device(request):
    """A device that the operators have kernels for."""
    with _on(request.param) as name:
        yield name


@pytest.fixture(scope="module", params=["emulated", "cuda"])
def gpu(request):
    """A device that the CUDA kernels run on."""
    with _on(request.param) as name:
        yield name

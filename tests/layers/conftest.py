"""Where the operators' tests run: on the CPU, on the CUDA kernels emulated on it, and on a GPU where there is one."""

import contextlib

import pytest
import torch

from tests.cuda_on_cpu.emulation import emulated, emulator, why_not


class Device(str):
    """The name of a device for PyTorch, and which kernels serve there: "cpu" or "cuda"."""

    kernels: str
    place: str


def _at(place: str) -> Device:
    name = Device("cuda" if place == "cuda" else "cpu")
    name.place, name.kernels = place, "cpu" if place == "cpu" else "cuda"
    if place == "cuda" and not torch.cuda.is_available():
        pytest.skip("no GPU")
    if place == "emulated" and why_not():
        pytest.skip(f"no emulated kernels: {why_not()}")
    return name


# Of the module, because Hypothesis refuses fixtures that are made once for all its examples.
@pytest.fixture(scope="module", params=["cpu", "emulated", "cuda"])
def device(request):
    """A device that the operators have kernels for."""
    return _at(request.param)


@pytest.fixture(scope="module", params=["emulated", "cuda"])
def gpu(request):
    """A device that the CUDA kernels run on."""
    return _at(request.param)


@pytest.fixture(autouse=True)
def _emulation(request):
    """Have the CUDA kernels emulated during the tests whose device is emulated, and no others."""
    names = [name for name in ("device", "gpu") if name in request.fixturenames]
    with contextlib.ExitStack() as stack:
        if any(request.getfixturevalue(name).place == "emulated" for name in names):
            stack.enter_context(emulated(emulator()))
        yield

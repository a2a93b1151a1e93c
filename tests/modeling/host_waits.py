"""Where inference would make the host wait for the device."""

import traceback

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from adet_ext.layers import dr1_conv, extension


class CountSyncs(TorchDispatchMode):
    """Counts operators whose result the host has to wait for: values, sizes that depend on data, copies to the host."""

    WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "is_nonzero", "equal", "repeat_interleave")

    def __init__(self):
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = str(func)
        if any(f"aten.{w}" in name for w in self.WAITS) or "torchvision.nms" in name:
            self.seen.append(name)
        if name.startswith("aten.index.") and any(x is not None and x.dtype == torch.bool for x in args[1]):
            self.seen.append(name)
        return func(*args, **(kwargs or {}))


class HostCopies(TorchDispatchMode):
    """Collects the places, "folder/file.py:line" in this package, that copy a tensor from the host to a GPU."""

    def __init__(self):
        super().__init__()
        self.places: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and result.is_cuda and "copy" in str(func):
            if any(isinstance(x, torch.Tensor) and not x.is_cuda for x in args):
                frames = [x for x in traceback.extract_stack()[:-1] if "/torch/" not in x.filename]
                self.places.append(f"{frames[-1].filename.rsplit('/adet_ext/', 1)[-1]}:{frames[-1].lineno}")
        return result


def host_traffic(model, size: tuple[int, int] = (96, 128)) -> tuple[list[str], list[str]]:
    """Return where inference of a model on a GPU would copy from the host, and what it would wait for.

    No GPU is needed: the tensors are fake.
    """
    copies, count = HostCopies(), CountSyncs()
    with torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True):
        images = torch.empty(2, 3, *size, device="cuda")
        model = model.to("cuda")
        with copies, count:
            model.predict_tensors(images)
    return copies.places, count.seen


def serve_fake_gpus(monkeypatch) -> None:
    """Have tensors on a fake GPU computed by the operators, as on a GPU that they are compiled for."""
    everywhere = {name: frozenset(["cpu", "cuda", "meta"]) for name in extension.native_operators()}
    monkeypatch.setattr(extension, "_DEVICES", everywhere)
    monkeypatch.setattr(extension, "_runs_on", lambda index: True)
    monkeypatch.setattr(dr1_conv, "_on_tensor_cores", lambda device, dtype: True)


def counted_waits(model, batch):
    """Return what ``model.predict_tensors`` gives for a batch, as tensors without values, and the waits on the way.

    A fake tensor has no values: whatever needs one raises.
    """
    images = model.preprocess_image(batch).tensor
    count = CountSyncs()
    with torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True) as mode:
        fake = mode.from_tensor(images)
        with count:
            results = model.predict_tensors(fake)
    return results, count.seen

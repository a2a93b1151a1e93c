"""How many kernels a model launches on a GPU from image in to fixed-size result out.

``python -m tests.modeling.launches`` prints them. No GPU is needed: the tensors are fake, and an operator that computes
something on one of them counts as one launch. Views and allocations do not count. It is a lower bound: PyTorch adds a
convolution's bias, normalizes groups and sorts in more than one launch.
"""

import argparse
import contextlib
from collections import Counter
from collections.abc import Iterator
from types import SimpleNamespace
from unittest import mock

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from adet_ext import get_cfg
from adet_ext.d2.modeling import build_model
from adet_ext.layers import blur_border, tables
from adet_ext.model_zoo import get_config_file
from adet_ext.modeling.fcos import targets

from .host_waits import serve_fake_gpus

_KEPT = (tables._kept, targets._kept_locations, blur_border._kept_mixture)

__all__ = ["CountLaunches", "launches"]

CONFIGS = ("FCOS/R_50_1x.yaml", "SmalMask/smooth_R_50_1x.yaml", "DR1Mask/R_101_3x.yaml", "BlendMask/R_50_1x.yaml")
_NOTHING = ("empty", "new_empty", "empty_like", "empty_strided", "new_empty_strided", "_unsafe_view")


class CountLaunches(TorchDispatchMode):
    """Counts the operators that compute on a GPU, by name."""

    def __init__(self):
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        name = func._schema.name.split("::")[1]
        # Some that work in place return nothing.
        parts = args[:1] if result is None or isinstance(result, tuple) and not result else result
        parts = [x for part in (parts if isinstance(parts, (tuple, list)) else [parts]) for x in _flat(part)]
        on_gpu = any(isinstance(x, torch.Tensor) and x.is_cuda and x.numel() > 0 for x in parts)
        if on_gpu and not func.is_view and name not in _NOTHING:
            self.counts[name] += 1
        return result


def _flat(value) -> list:
    return list(value) if isinstance(value, (tuple, list)) else [value]


def launches(model, size: tuple[int, int] = (800, 1088)) -> tuple[int, Counter]:
    """Return the launches for the first image of a size, and by operator those for the next ones.

    Tables that depend on the size alone are made for the first one and kept. The model gets fake parameters.
    """
    with torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True), _fake_tables():
        image = torch.empty(1, 3, *size, device="cuda", memory_format=torch.channels_last)
        model = model.eval().to("cuda")
        model.predict_tensors(image)  # folds the norms
        _forget_tables()
        first, next_ones = CountLaunches(), CountLaunches()
        with first:
            model.predict_tensors(image)
        with next_ones:
            model.predict_tensors(image)
    return sum(first.counts.values()), next_ones.counts


@contextlib.contextmanager
def _fake_tables() -> Iterator[None]:
    """Let tables be kept though they are fake, and forget them in the end."""
    stream = SimpleNamespace(cuda_stream=0)
    with (
        mock.patch.object(tables, "is_in_torch_dispatch_mode", lambda: False),
        mock.patch.object(torch.cuda, "is_current_stream_capturing", lambda: False),
        mock.patch.object(torch.cuda, "current_stream", lambda device=None: stream),
    ):
        try:
            yield
        finally:
            _forget_tables()


def _forget_tables() -> None:
    for function in _KEPT:
        function.cache_clear()


class _Patch:
    """As pytest's monkeypatch, for the length of the process."""

    @staticmethod
    def setattr(owner, name, value) -> None:
        setattr(owner, name, value)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("configs", nargs="*", default=CONFIGS, help="config files, as in configs/")
    parser.add_argument("--operators", type=int, default=0, help="how many of the most frequent operators to list")
    arguments = parser.parse_args()
    serve_fake_gpus(_Patch)
    for name in arguments.configs:
        cfg = get_cfg()
        cfg.merge_from_file(get_config_file(name))
        cfg.MODEL.DEVICE, cfg.MODEL.WEIGHTS = "cpu", ""
        first, counts = launches(build_model(cfg))
        most = ", ".join(f"{name} {n}" for name, n in counts.most_common(arguments.operators))
        print(f"{first:5} {sum(counts.values()):5}  {name}" + (f"  ({most})" if most else ""), flush=True)


if __name__ == "__main__":
    main()

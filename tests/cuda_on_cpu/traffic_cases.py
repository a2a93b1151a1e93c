"""Calls of the operators whose traffic is counted: the shapes of ``python -m adet_ext bench ops`` at 800 x 1088.

Blending has 5 boxes in place of 100, the convolution runs on P5 in place of P3, the group norm on three levels of five,
because the emulator is slow.
"""

from collections.abc import Callable
from dataclasses import dataclass
from unittest import mock

import torch

from adet_ext.benchmark.ops import cases_blend, cases_group_norm_relu
from adet_ext.benchmark.ops.case import PYRAMID
from adet_ext.benchmark.ops.registry import all_cases
from adet_ext.layers.nms_mask import nms_mask

__all__ = ["TrafficCase", "traffic_cases"]

BOXES = 5  # of a blend


@dataclass(frozen=True)
class TrafficCase:
    """A call on the CPU, where the emulated kernels serve.

    Attributes:
        make: returns the call; made before the kernels are put in their place.
        flops: of the products that the operator needs, multiplications and additions.
        arithmetic: which of Gpu.flops they are.
        scale: how many times as large the benchmark's call is, for times.
    """

    operator: str
    shape: str
    dtype: torch.dtype
    make: Callable[[], Callable[[], object]]
    flops: float = 0.0
    arithmetic: str = "float32"
    scale: float = 1.0


_FLOAT, _HALF = torch.float32, torch.float16
_PIXELS = BOXES * 56 * 56
# Of the benchmark: its operator's name, part of its shape, types, flops.
_BENCHED = (
    ("blend", "4x200x272", (_FLOAT, _HALF), _PIXELS * 4 * 24),
    ("blend_factored", "32x200x272", (_FLOAT, _HALF), _PIXELS * (32 * 16 + 4 * 24)),
    ("blur_pool", "1x512x100x136", (_FLOAT, _HALF), 0),
    ("roi_sample", "800x1088", (_FLOAT, _HALF), 100 * 25 * 256 * 8),
    ("paste_masks", "800x1088", (_FLOAT,), 0),
)


def traffic_cases() -> list[TrafficCase]:
    """Return the cases, all of them forward."""
    found = []
    for operator, shape, types, flops in _BENCHED:
        case = next(c for c in all_cases() if c.operator == operator and shape in c.shape)
        name = case.shape.replace("100 boxes, 4x", f"{BOXES} boxes, 4x").replace(
            "100 boxes, 32x", f"{BOXES} boxes, 32x"
        )
        scale = 100 / BOXES if operator.startswith("blend") else 1.0
        found += [TrafficCase(operator, name, dtype, _benched(case, dtype), flops, scale=scale) for dtype in types]
    for width, dtype in ((32, _HALF), (64, _HALF), (64, _FLOAT)):
        found += [_dr1(width, 25, 34, dtype, factors) for factors in (False, True)]
    return [*found, *(_norm(dtype) for dtype in (_FLOAT, _HALF)), _nms(1000)]


def _benched(case, dtype: torch.dtype) -> Callable[[], Callable[[], object]]:
    def make() -> Callable[[], object]:
        boxes = BOXES if case.operator.startswith("blend") else cases_blend.BOXES
        with mock.patch.object(cases_blend, "BOXES", boxes):
            return case.make(torch.device("cpu"), dtype).ours

    return make


def _dr1(width: int, height: int, across: int, dtype: torch.dtype, factors: bool) -> TrafficCase:
    def make():
        generator = torch.Generator().manual_seed(0)

        def random(*shape: int) -> torch.Tensor:
            return torch.randn(*shape, generator=generator).to(dtype).contiguous(memory_format=torch.channels_last)

        x, weight, bias = random(1, width, height, across), random(width, width, 3, 3), torch.zeros(width, dtype=dtype)
        a, b = random(1, 2 * width, height, across).chunk(2, dim=1) if factors else (None, None)
        return lambda: torch.ops.adet_ext.dr1_conv(x, a, weight, bias, False, b, None, 1)

    flops = 2 * 9 * width * width * height * across
    arithmetic = "tf32" if dtype == torch.float32 else "half"
    name = "dr1_conv" if factors else "dr1_conv without factors"
    return TrafficCase(name, f"1x{width}x{height}x{across}", dtype, make, flops, arithmetic, scale=16.0)


def _norm(dtype: torch.dtype) -> TrafficCase:
    def make():
        inputs = cases_group_norm_relu.make_inputs(PYRAMID[2:], torch.device("cpu"), dtype)
        return lambda: torch.ops.adet_ext.group_norm_relu(*inputs, cases_group_norm_relu.GROUPS, 1e-5)

    return TrafficCase("group_norm_relu", "1x256, P5-P7 of 800x1088", dtype, make, scale=16.0)


def _nms(count: int) -> TrafficCase:
    def make():
        generator = torch.Generator().manual_seed(0)
        corner = torch.rand(1, count, 2, generator=generator) * 800
        boxes = torch.cat([corner, corner + 20 + torch.rand(1, count, 2, generator=generator) * 200], dim=2)
        classes = torch.randint(80, (1, count), generator=generator)
        valid = torch.ones(1, count, dtype=torch.bool)
        return lambda: nms_mask(boxes, classes, valid, 0.6)

    return TrafficCase("nms_mask", f"1 x {count} candidates of 80 classes", torch.float32, make, count**2 / 2 * 12)

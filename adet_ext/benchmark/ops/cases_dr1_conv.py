"""Cases of the dynamic rank-1 convolution: DR1Basis' levels at 800 x 1088 and 800 x 1333, padded to 32."""

import torch
from torch.nn import functional as F

from ...layers.dr1_conv import dr1_conv, dr1_conv_reference
from .case import PYRAMID, Case, Contest

__all__ = ["cases"]

# H, W of P3 to P7 at 800 x 1088, and of P3 at 800 x 1344.
LEVELS = (*PYRAMID, (100, 168))
BARE, COMPOSITION = "F.conv2d alone, without the factors", "multiply, F.conv2d, multiply"


def cases() -> list[Case]:
    """Forward against the bare convolution (the target: 5 % above it) and the composition; then with gradients."""
    found = []
    types = (torch.float32, torch.float16, torch.bfloat16)
    for width in (32, 64, 128):
        for height, across in LEVELS:
            shape = f"1x{width}x{height}x{across}"
            target = {"cpu": 1 / 1.05, "cuda": 1 / 1.05}
            found.append(
                Case("dr1_conv / bare", shape, BARE, _make(width, height, across, "bare"), target, dtypes=types)
            )
        for height, across in LEVELS[:2]:
            shape = f"1x{width}x{height}x{across}"
            make = _make(width, height, across, "composition")
            found.append(Case("dr1_conv", shape, COMPOSITION, make, {}, dtypes=types))
            make = _make(width, height, across, "backward")
            found.append(Case("dr1_conv backward", shape, COMPOSITION + ", backward", make, {}, dtypes=types))
    return found


def _make(width: int, height: int, across: int, what: str):
    def make(device: torch.device, dtype: torch.dtype) -> Contest:
        generator = torch.Generator().manual_seed(0)

        def random(*shape: int, scale: float = 1.0) -> torch.Tensor:
            values = torch.randn(*shape, generator=generator) * scale
            return values.to(device, dtype).contiguous(memory_format=torch.channels_last)

        x, weight = random(1, width, height, across), random(width, width, 3, 3, scale=(9 * width) ** -0.5)
        a, b = random(1, 2 * width, height, across).chunk(2, dim=1)  # A and B are the halves of C
        bias = torch.zeros(width, device=device, dtype=dtype)
        inputs = [x, a, b, weight, bias]
        if what != "backward":
            theirs = {
                "bare": lambda: F.conv2d(x, weight, bias, padding=1),
                "composition": lambda: dr1_conv_reference(*inputs),
            }[what]
            traffic = sum(t.numel() for t in inputs) + x.numel()
            return Contest(lambda: dr1_conv(*inputs), theirs, traffic * x.element_size(), same=what != "bare")
        inputs = [t.detach().requires_grad_() for t in inputs]
        grad = random(1, width, height, across)
        # Forward and backward: the inputs twice, the result and its gradient, a gradient for each input.
        traffic = 3 * sum(t.numel() for t in inputs) + 2 * grad.numel()
        return Contest(
            lambda: torch.autograd.grad(dr1_conv(*inputs), inputs, grad),
            lambda: torch.autograd.grad(dr1_conv_reference(*inputs), inputs, grad),
            traffic * x.element_size(),
        )

    return make

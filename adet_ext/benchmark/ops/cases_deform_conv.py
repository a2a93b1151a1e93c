"""Cases of the deformable convolution on a CPU, at the sizes of a ResNet-50 at 800 x 1088 and of a head's map."""

import torch
from torchvision.ops import deform_conv2d as operator

from ...utils.deform_conv import deform_conv2d
from .case import Case, Contest

__all__ = ["cases"]

_TAPS = 9
# Channels and size of the last three stages, and of a small map.
_MAPS = ((128, 100, 136), (256, 50, 68), (512, 25, 34), (64, 16, 16))


def cases() -> list[Case]:
    """Against torchvision's operator, forward, and forward with backward."""
    return [
        Case(
            "deform_conv" + (" backward" if backward else ""),
            f"1x{channels}x{height}x{width}, 3x3, modulated",
            "torchvision deform_conv2d" + (", backward" if backward else ""),
            _make(channels, (height, width), backward),
            {},
            devices=("cpu",),
        )
        for channels, height, width in _MAPS
        for backward in (False, True)
    ]


def _make(channels: int, size: tuple[int, int], backward: bool):
    def make(device: torch.device, dtype: torch.dtype) -> Contest:
        generator = torch.Generator().manual_seed(0)

        def random(*shape: int) -> torch.Tensor:
            return torch.randn(*shape, generator=generator).to(device, dtype).requires_grad_(backward)

        x, weight = random(1, channels, *size), random(channels, channels, 3, 3)
        offsets, mask = random(1, 2 * _TAPS, *size), random(1, _TAPS, *size)
        inputs, grad = [x, offsets, weight, mask], torch.randn(x.shape, generator=generator).to(device, dtype)
        read = sum(t.numel() for t in inputs)
        moved = ((3 * read + 2 * x.numel()) if backward else (read + x.numel())) * x.element_size()

        def run(convolve):
            found = convolve(x, offsets, weight, padding=1, mask=mask)
            return torch.autograd.grad(found, inputs, grad) if backward else found

        return Contest(lambda: run(deform_conv2d), lambda: run(operator), moved)

    return make

"""Cases of the blur: where a BlurConv ResNet-50 has its strides, at 800 x 1088 and 800 x 1333, padded to 32."""

import torch
from torch.nn import functional as F

from ...layers.blur_compose import blur_conv2d
from ...layers.blur_pool import binomial_filter, blur_pool
from .case import Case, Contest

__all__ = ["cases"]

# C, H, W before the stride: after the stem, and before res3 to res5.
MAPS = ((64, 400, 544), (256, 200, 272), (512, 100, 136), (1024, 50, 68), (256, 200, 336))
# C, H, W of the 3 x 3 convolutions with stride 2, as many channels out as in.
CONVOLUTIONS = ((128, 200, 272), (256, 100, 136), (512, 50, 68))
COMPOSITION = "F.pad, depthwise F.conv2d"
TYPES = (torch.float32, torch.float16, torch.bfloat16)


def cases() -> list[Case]:
    found = []
    target = {"cpu": 3.0}
    for channels, height, width in MAPS:
        shape = f"1x{channels}x{height}x{width}, 3 taps, stride 2"
        for layout, name in ((torch.channels_last, "blur_pool"), (torch.contiguous_format, "blur_pool, planes")):
            make = _blur((channels, height, width), layout)
            found.append(Case(name, shape, COMPOSITION, make, target, dtypes=TYPES))
        make = _blur((channels, height, width), torch.channels_last, backward=True)
        found.append(Case("blur_pool backward", shape, COMPOSITION, make, {}, dtypes=TYPES))
    for size in CONVOLUTIONS:
        shape = "1x{}x{}x{}, 3x3, 3 taps, stride 2".format(*size)
        found.append(Case("blur_conv", shape, "F.conv2d at stride 1, then the blur", _convolution(size, False), {}))
        found.append(Case("blur_conv / strided", shape, "F.conv2d at stride 2, no blur", _convolution(size, True), {}))
    return found


def _composition(x: torch.Tensor, kernel: torch.Tensor) -> torch.Tensor:
    return F.conv2d(F.pad(x, (1, 1, 1, 1), mode="reflect"), kernel, stride=2, groups=x.shape[1])


def _kernel(channels: int, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    line = torch.tensor(binomial_filter(3), device=device, dtype=dtype)
    return (line[:, None] * line).expand(channels, 1, 3, 3).contiguous()


def _blur(size: tuple[int, int, int], layout: torch.memory_format, *, backward: bool = False):
    def make(device: torch.device, dtype: torch.dtype) -> Contest:
        torch.manual_seed(0)
        x = torch.randn(1, *size, device=device).to(dtype).contiguous(memory_format=layout)
        kernel = _kernel(size[0], device, dtype)
        traffic = (x.numel() + x.numel() // 4) * x.element_size()
        if not backward:
            return Contest(lambda: blur_pool(x), lambda: _composition(x, kernel), traffic)
        x.requires_grad_()
        grad = torch.randn_like(blur_pool(x))
        return Contest(
            lambda: torch.autograd.grad(blur_pool(x), x, grad),
            lambda: torch.autograd.grad(_composition(x, kernel), x, grad),
            2 * traffic,
        )

    return make


def _convolution(size: tuple[int, int, int], strided: bool):
    def make(device: torch.device, dtype: torch.dtype) -> Contest:
        torch.manual_seed(0)
        channels = size[0]
        x, weight = torch.randn(1, *size), torch.randn(channels, channels, 3, 3) * (9 * channels) ** -0.5
        x, weight = (t.to(device, dtype).contiguous(memory_format=torch.channels_last) for t in (x, weight))
        kernel = _kernel(channels, device, dtype)
        traffic = (x.numel() + weight.numel() + x.numel() // 4) * x.element_size()
        return Contest(
            lambda: blur_conv2d(x, weight, padding=(1, 1)),
            (lambda: F.conv2d(x, weight, stride=2, padding=1))
            if strided
            else (lambda: _composition(F.conv2d(x, weight, padding=1), kernel)),
            traffic,
            same=not strided,
        )

    return make

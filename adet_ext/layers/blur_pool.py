"""Blurred subsampling: a binomial low-pass filter evaluated at every s-th position (Zhang, 2019; thesis 3.3.2).

N images, C channels, H and W height and width, M taps of the filter, s stride.

Taking every s-th pixel of a feature map lets everything above the new Nyquist frequency through as alias; filtering
first takes it away. The filter is separable and the same for all channels. The operator reads the input once: it
neither pads a copy nor computes what the stride drops.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .extension import kernel_devices
from .floats import FLOATS, sum_dtype

__all__ = [
    "BlurPool2d",
    "PADDINGS",
    "STRIDES",
    "TAPS",
    "binomial_filter",
    "blur",
    "blur_pool2d",
    "blur_pool2d_reference",
    "check_blur",
]

TAPS = range(1, 8)
STRIDES = (1, 2, 4)
PADDINGS = ("reflect", "replicate", "zeros")
_DEVICES = kernel_devices("blur_pool")


def blur_pool2d(x: Tensor, *, taps: int = 3, stride: int = 2, padding: str = "reflect") -> Tensor:
    """Blur with the M x M binomial filter and keep every s-th pixel: ``Blur_{M,s}`` of equation 3.4.

    Output (i, j) is centred on input (s i, s j), half a pixel further on for an even M.

    Args:
        x: (N, C, H, W), float32, float64, float16 or bfloat16; sums of the latter two are kept in float32.
        taps: M, 1 to 7: [1], [1, 1], [1, 2, 1], [1, 3, 3, 1], ..., divided by their sum 2^(M-1).
        stride: s: 1, 2 or 4.
        padding: what lies beyond the border. "reflect" mirrors at the outermost pixel's centre, as often as it takes
            where the map is smaller than the filter (a single pixel is its own mirror image); "replicate" repeats
            that pixel; "zeros".

    Returns:
        (N, C, ceil(H / s), ceil(W / s)), channels-last where x is. Differentiable any number of times; the gradient is
        deterministic on every device.

    Raises:
        TypeError: x is no tensor of these types, or an argument is of the wrong type.
        ValueError: x does not have four dimensions, or an argument is not one of the above.
    """
    check_blur(taps, stride, padding)
    return blur(x, taps, stride, padding)


class BlurPool2d(nn.Module):
    """:func:`blur_pool2d` as a layer. It has no parameters and no buffers: a state dict does not know of it."""

    def __init__(self, *, taps: int = 3, stride: int = 2, padding: str = "reflect"):
        super().__init__()
        check_blur(taps, stride, padding)
        self.taps, self.stride, self.padding = taps, stride, padding

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, ceil(H / s), ceil(W / s))."""
        return blur(x, self.taps, self.stride, self.padding)

    def extra_repr(self) -> str:
        return f"taps={self.taps}, stride={self.stride}, padding={self.padding}"


def check_blur(taps: int, stride: int, padding: str) -> None:
    """Raise a sentence if these do not describe a blur."""
    for name, value in (("taps", taps), ("stride", stride)):
        if not isinstance(value, int) or isinstance(value, bool):
            raise TypeError(f"{name} is {value!r}; it takes an integer")
    if taps not in TAPS:
        raise ValueError(f"taps is {taps}; it takes 1 to 7")
    if stride not in STRIDES:
        raise ValueError(f"stride is {stride}; it takes 1, 2 or 4")
    if padding not in PADDINGS:
        raise ValueError(f"padding is {padding!r}; it takes {', '.join(PADDINGS)}")


def binomial_filter(taps: int) -> list[float]:
    """The M coefficients, which add up to one."""
    return [math.comb(taps - 1, k) / 2 ** (taps - 1) for k in range(taps)]


def blur(x: Tensor, taps: int, stride: int, padding: str, extend: tuple[int, int] = (0, 0)) -> Tensor:
    """:func:`blur_pool2d` whose filter starts ``extend`` (rows, columns) outside the map and ends as far beyond it.

    With stride 1 and "zeros" only, where the blurred map reaches further than the map: (N, C, H + 2 rows,
    W + 2 columns).
    """
    _check_input(x)
    if extend != (0, 0) and (stride != 1 or padding != "zeros"):
        raise ValueError(f"extend is {extend}; it takes (0, 0) unless stride is 1 and padding is zeros")
    if x.device.type in _DEVICES or (_DEVICES and x.device.type == "meta"):
        return torch.ops.adet_ext.blur_pool(x, taps, stride, PADDINGS.index(padding), *extend)
    return blur_pool2d_reference(x, taps, stride, padding, extend)


def blur_pool2d_reference(x: Tensor, taps: int, stride: int, padding: str, extend: tuple[int, int] = (0, 0)) -> Tensor:
    """What the operator computes, in plain PyTorch: pad a copy, then a depthwise convolution."""
    if x.numel() == 0:
        shape = [_output_size(size, stride, more) for size, more in zip(x.shape[2:], extend)]
        return x.sum() + x.new_zeros(*x.shape[:2], *shape)
    dtype = sum_dtype(x.dtype)
    before, after = (taps - 1) // 2, taps // 2
    rows, columns = extend
    padded = _pad(x.to(dtype), (before + columns, after + columns, before + rows, after + rows), padding)
    line = torch.tensor(binomial_filter(taps), dtype=dtype, device=x.device)
    kernel = (line[:, None] * line).expand(x.shape[1], 1, taps, taps)
    return F.conv2d(padded, kernel, stride=stride, groups=x.shape[1]).to(x.dtype)


def _pad(x: Tensor, sides: tuple[int, int, int, int], padding: str) -> Tensor:
    if padding == "zeros":
        return F.pad(x, sides)
    height, width = x.shape[2:]
    if padding == "replicate" or max(sides[:2]) < width and max(sides[2:]) < height:
        return F.pad(x, sides, mode=padding)
    for axis, before, after in ((2, *sides[2:]), (3, *sides[:2])):
        size = x.shape[axis]
        place = torch.arange(-before, size + after, device=x.device) % max(2 * size - 2, 1)
        x = x.index_select(axis, torch.minimum(place, (2 * size - 2 - place).abs()))
    return x


def _check_input(x: Tensor) -> None:
    if not isinstance(x, Tensor):
        raise TypeError(f"x is {type(x).__name__}; it takes a tensor")
    if x.dtype not in FLOATS:
        raise TypeError(f"x is {x.dtype}; it takes float32, float64, float16 or bfloat16")
    if x.dim() != 4:
        raise ValueError(f"x has shape {tuple(x.shape)}; it takes (N, C, H, W)")


def _output_size(size: int, stride: int, extend: int) -> int:
    return -(-(size + 2 * extend) // stride)


def _empty(x: Tensor, height: int, width: int) -> Tensor:
    """An empty map in the layout that the kernels choose for an input with these strides."""
    last = x.stride(3) != 1 and x.stride(1) == 1
    layout = torch.channels_last if last else torch.contiguous_format
    return torch.empty(*x.shape[:2], height, width, dtype=x.dtype, device=x.device, memory_format=layout)


def _register() -> None:
    @torch.library.register_fake("adet_ext::blur_pool")
    def _(x, taps, stride, padding, rows, columns):
        return _empty(x, _output_size(x.shape[2], stride, rows), _output_size(x.shape[3], stride, columns))

    @torch.library.register_fake("adet_ext::blur_pool_backward")
    def _(grad, height, width, taps, stride, padding, rows, columns):
        return _empty(grad, height, width)

    def setup(ctx, inputs, output):
        x, *ctx.geometry = inputs
        ctx.size = x.shape[2:]

    def backward(ctx, grad):
        return (torch.ops.adet_ext.blur_pool_backward(grad, *ctx.size, *ctx.geometry), *[None] * 5)

    # The blur is linear: the gradient of its gradient is the blur.
    def setup_backward(ctx, inputs, output):
        _, _, _, *ctx.geometry = inputs

    def backward_of_backward(ctx, grad):
        return (torch.ops.adet_ext.blur_pool(grad, *ctx.geometry), *[None] * 7)

    torch.library.register_autograd("adet_ext::blur_pool", backward, setup_context=setup)
    torch.library.register_autograd("adet_ext::blur_pool_backward", backward_of_backward, setup_context=setup_backward)


if _DEVICES:
    _register()

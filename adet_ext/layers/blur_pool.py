"""Subsample with a binomial low-pass filter, evaluated at every s-th position (Zhang, 2019; thesis 3.3.2).

M taps of the filter, s stride; other letters as in :mod:`adet_ext.layers`.

Keeping every s-th pixel of a feature map aliases all frequencies above the new Nyquist frequency. A low-pass filter
removes them first. The filter is separable and the same for all channels. The operator reads the input once. It does
not pad a copy, nor compute the pixels that the stride drops.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .checks import check_floating, check_option, check_range, check_shape
from .extension import native_operators, serves
from .floats import sum_dtype

__all__ = [
    "BlurPool2d",
    "PADDINGS",
    "STRIDES",
    "TAPS",
    "binomial_filter",
    "blur",
    "blur_pool",
    "blur_pool_reference",
    "check_blur",
]

TAPS = range(1, 8)
STRIDES = (1, 2, 4)
PADDINGS = ("reflect", "replicate", "zeros")


def blur_pool(x: Tensor, *, taps: int = 3, stride: int = 2, padding: str = "reflect") -> Tensor:
    """Blur with the M x M binomial filter and keep every s-th pixel: ``Blur_{M,s}`` of equation 3.4.

    Output (i, j) is centered on input (s i, s j), half a pixel further on for an even M.

    Args:
        x: (N, C, H, W), float32, float64, float16 or bfloat16; sums of the latter two are kept in float32.
        taps: M, 1 to 7: [1], [1, 1], [1, 2, 1], [1, 3, 3, 1], ..., divided by their sum 2^(M-1).
        stride: s: 1, 2 or 4.
        padding: the values beyond the border. "reflect" mirrors at the center of the outermost pixel, several times if
            the map is smaller than the filter (a single pixel is its own mirror image). "replicate" repeats that
            pixel. "zeros" pads zeros.

    Returns:
        (N, C, ceil(H / s), ceil(W / s)), channels-last if x is. Differentiable any number of times. The gradient is
        deterministic on every device.

    Raises:
        TypeError: x is not a tensor of these types, or an argument is of the wrong type.
        ValueError: x does not have four dimensions, or an argument is not one of the above.
    """
    check_blur(taps, stride, padding)
    return blur(x, taps, stride, padding)


class BlurPool2d(nn.Module):
    """:func:`blur_pool` as a layer. It has no parameters or buffers, so it adds nothing to a state dict."""

    def __init__(self, *, taps: int = 3, stride: int = 2, padding: str = "reflect"):
        super().__init__()
        check_blur(taps, stride, padding)
        self.taps, self.stride, self.padding = taps, stride, padding

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, C, ceil(H / s), ceil(W / s))."""
        return blur(x, self.taps, self.stride, self.padding)

    def extra_repr(self) -> str:
        return f"taps={self.taps}, stride={self.stride}, padding={self.padding}"


def check_blur(taps: int, stride: int, padding: str) -> None:
    """Raise TypeError or ValueError unless these describe a blur."""
    check_range(taps, "taps", TAPS[0], TAPS[-1])
    if isinstance(stride, bool) or not isinstance(stride, int):
        raise TypeError(f"stride must be an integer; got {stride!r}")
    if stride not in STRIDES:
        raise ValueError(f"stride must be 1, 2 or 4; got {stride}")
    check_option(padding, "padding", PADDINGS)


def binomial_filter(taps: int) -> list[float]:
    """Return the M coefficients, which add up to one."""
    return [math.comb(taps - 1, k) / 2 ** (taps - 1) for k in range(taps)]


def blur(x: Tensor, taps: int, stride: int, padding: str, extend: tuple[int, int] = (0, 0)) -> Tensor:
    """Blur as :func:`blur_pool` does, from ``extend`` (rows, columns) outside the map to as far beyond its end.

    Above 0 it needs stride 1 and "zeros". The blurred map is then larger than the map: (N, C, H + 2 rows,
    W + 2 columns).
    """
    check_floating(x, "x")
    check_shape(x, "x", ("N", "C", "H", "W"))
    _check_extend(stride, padding, *extend)
    if serves("blur_pool", x):
        return torch.ops.adet_ext.blur_pool(x, taps, stride, PADDINGS.index(padding), *extend)
    return blur_pool_reference(x, taps, stride, padding, extend)


def blur_pool_reference(x: Tensor, taps: int, stride: int, padding: str, extend: tuple[int, int] = (0, 0)) -> Tensor:
    """Compute the operator's result in plain PyTorch: pad a copy, then apply a depthwise convolution."""
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


def _check_extend(stride: int, padding: str, rows: int, columns: int) -> None:
    most = 4096 if stride == 1 and padding == "zeros" else 0  # extend needs stride 1 and zeros
    check_range(rows, "rows", 0, most)
    check_range(columns, "columns", 0, most)


def _output_size(size: int, stride: int, extend: int) -> int:
    return -(-(size + 2 * extend) // stride)


def _empty(x: Tensor, height: int, width: int) -> Tensor:
    """Return an empty map in the layout that the kernels choose for an input with these strides."""
    last = x.stride(3) != 1 and x.stride(1) == 1
    layout = torch.channels_last if last else torch.contiguous_format
    return torch.empty(*x.shape[:2], height, width, dtype=x.dtype, device=x.device, memory_format=layout)


def _check_call(x: Tensor, name: str, taps: int, stride: int, padding: int, rows: int, columns: int) -> None:
    """Check what csrc/blur_pool.h checks."""
    check_floating(x, name)
    check_shape(x, name, ("N", "C", "H", "W"))
    check_range(padding, "padding", 0, 2)
    check_blur(taps, stride, PADDINGS[padding])
    _check_extend(stride, PADDINGS[padding], rows, columns)


def _register() -> None:
    @torch.library.register_fake("adet_ext::blur_pool")
    def _(x, taps, stride, padding, rows, columns):
        _check_call(x, "x", taps, stride, padding, rows, columns)
        return _empty(x, _output_size(x.shape[2], stride, rows), _output_size(x.shape[3], stride, columns))

    @torch.library.register_fake("adet_ext::blur_pool_backward")
    def _(grad, height, width, taps, stride, padding, rows, columns):
        _check_call(grad, "grad", taps, stride, padding, rows, columns)
        check_range(height, "height", 0, 2**31 - 1)
        check_range(width, "width", 0, 2**31 - 1)
        sizes = _output_size(height, stride, rows), _output_size(width, stride, columns)
        check_shape(grad, "grad", ("N", "C", *sizes))
        return _empty(grad, height, width)

    def setup(ctx, inputs, output):
        x, *ctx.geometry = inputs
        ctx.size = x.shape[2:]

    def backward(ctx, grad):
        return (torch.ops.adet_ext.blur_pool_backward(grad, *ctx.size, *ctx.geometry), *[None] * 5)

    # The blur is linear, so the gradient of its gradient is the blur.
    def setup_backward(ctx, inputs, output):
        _, _, _, *ctx.geometry = inputs

    def backward_of_backward(ctx, grad):
        return (torch.ops.adet_ext.blur_pool(grad, *ctx.geometry), *[None] * 7)

    torch.library.register_autograd("adet_ext::blur_pool", backward, setup_context=setup)
    torch.library.register_autograd("adet_ext::blur_pool_backward", backward_of_backward, setup_context=setup_backward)


if "blur_pool" in native_operators():
    _register()

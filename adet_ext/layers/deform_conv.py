"""Modulated deformable convolution (Zhu et al., 2019) on CPUs; checks and gradients of the compiled operator.

G groups of channels with offsets of their own, F outputs, T = kh kw taps; other letters as in :mod:`adet_ext.layers`.

``torch.ops.adet_ext.deform_conv`` serves :func:`adet_ext.utils.deform_conv.deform_conv2d` on a CPU, which describes the
arguments. It keeps the samples of some places in the cache and makes them again for the gradients, which are
deterministic and cannot be differentiated again. A sample reads four rows of C / G values, where ``grid_sample`` reads
four values C / G times.
"""

from collections.abc import Sequence

import torch

from .checks import check_like, check_range, check_sequence, check_shape, dtype_name, shape_text
from .extension import native_operators

__all__: list[str] = []


def _check_pair(pair: Sequence[int], name: str, low: int) -> None:
    check_sequence(pair, name)
    if len(pair) != 2:
        raise ValueError(f"{name} must have 2 numbers; got {len(pair)}")
    for number in pair:
        check_range(number, name, low, 2**31 - 1)


def _check(x, offsets, mask, weight, stride, padding, dilation) -> list[int]:
    """Check what csrc/deform_conv.h checks, and return the shape of the result."""
    check_shape(x, "x", ("N", "C", "H", "W"))
    if x.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"x must be float32 or float64; got {dtype_name(x.dtype)}")
    check_shape(weight, "weight", ("F", x.shape[1], "k", "l"))
    check_like(weight, "weight", x)
    check_range(weight.shape[2], "the height of weight", 1, 1024)
    check_range(weight.shape[3], "the width of weight", 1, 1024)
    _check_pair(stride, "stride", 1)
    _check_pair(padding, "padding", 0)
    _check_pair(dilation, "dilation", 1)
    sizes = zip(x.shape[2:], weight.shape[2:], padding, dilation)
    rooms = [size + 2 * p - d * (k - 1) - 1 for size, k, p, d in sizes]
    if min(rooms) < 0:
        raise ValueError(f"x must be at least as large as weight, with padding; got {shape_text(x.shape)}")
    out = [room // step + 1 for room, step in zip(rooms, stride)]
    taps = weight.shape[2] * weight.shape[3]
    check_shape(offsets, "offsets", (x.shape[0], "O", *out))
    check_like(offsets, "offsets", x)
    groups = offsets.shape[1] // (2 * taps)
    if not groups or offsets.shape[1] % (2 * taps) or x.shape[1] % groups:
        raise ValueError(
            f"offsets must have {2 * taps} channels for each group of the {x.shape[1]} channels of x; "
            f"got {shape_text(offsets.shape)}"
        )
    check_shape(mask, "mask", (x.shape[0], taps * groups, *out))
    check_like(mask, "mask", x)
    return [x.shape[0], weight.shape[0], *out]


def _channels_last(like: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=torch.channels_last)


def _register() -> None:
    @torch.library.register_fake("adet_ext::deform_conv")
    def _(x, offsets, mask, weight, *settings):
        return _channels_last(x, _check(x, offsets, mask, weight, *settings))

    @torch.library.register_fake("adet_ext::deform_conv_backward")
    def _(grad, x, offsets, mask, weight, *settings):
        check_shape(grad, "grad", _check(x, offsets, mask, weight, *settings))
        check_like(grad, "grad", x)
        flat = [offsets.new_empty(t.shape) for t in (offsets, mask)]
        return _channels_last(x, x.shape), *flat, _channels_last(x, weight.shape)

    def setup(ctx, inputs, output):
        *tensors, stride, padding, dilation = inputs
        ctx.save_for_backward(*tensors)
        ctx.settings = stride, padding, dilation

    def backward(ctx, grad):
        grads = torch.ops.adet_ext.deform_conv_backward(grad, *ctx.saved_tensors, *ctx.settings)
        return *grads, None, None, None

    def no_second_time(ctx, *grads):
        raise RuntimeError("deform_conv has no second derivatives")

    torch.library.register_autograd("adet_ext::deform_conv", backward, setup_context=setup)
    torch.library.register_autograd("adet_ext::deform_conv_backward", no_second_time)


if "deform_conv" in native_operators():
    _register()

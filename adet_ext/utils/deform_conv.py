"""Deformable convolution: on a CPU by the compiled operator, elsewhere by torchvision's.

N images of H x W places, C channels in, F out, T taps of a kernel of kh x kw, G groups of input channels with offsets
of their own.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import deform_conv2d as operator

from .observed import operators_are_observed

__all__ = ["deform_conv2d", "sampled_deform_conv2d"]

_Pair = int | Sequence[int]


def deform_conv2d(
    x: Tensor,
    offsets: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: _Pair = 1,
    padding: _Pair = 0,
    dilation: _Pair = 1,
    mask: Tensor | None = None,
) -> Tensor:
    """Return what ``torchvision.ops.deform_conv2d`` does, faster on a CPU in float32.

    Without the compiled operator, and for grouped weights, a CPU takes ``grid_sample`` and a product. Graphs for other
    runtimes, and whatever counts operators, get torchvision's operator.
    """
    tensors = [t for t in (x, offsets, weight, mask) if t is not None]
    on_cpu = all(t.is_cpu and t.dtype == torch.float32 and t.numel() for t in tensors)
    if not on_cpu or operators_are_observed():
        convolve = operator
    else:
        convolve = _compiled if _is_compiled() and x.shape[1] == weight.shape[1] else sampled_deform_conv2d
    return convolve(x, offsets, weight, bias, _pair(stride), _pair(padding), _pair(dilation), mask)


def _is_compiled() -> bool:
    """Return whether ``adet_ext.layers`` has loaded the compiled operators."""
    return hasattr(torch.ops.adet_ext, "deform_conv")


def _compiled(
    x: Tensor, offsets: Tensor, weight: Tensor, bias: Tensor | None, stride, padding, dilation, mask: Tensor | None
) -> Tensor:
    if mask is None:
        mask = offsets.new_ones(len(offsets), offsets.shape[1] // 2, *offsets.shape[2:])
    found = torch.ops.adet_ext.deform_conv(x, offsets, mask, weight, stride, padding, dilation)
    if x.is_contiguous():
        found = found.contiguous()
    return found if bias is None else found + bias[:, None, None]


def sampled_deform_conv2d(
    x: Tensor, offsets: Tensor, weight: Tensor, bias: Tensor | None, stride, padding, dilation, mask: Tensor | None
) -> Tensor:
    """Return what ``torchvision.ops.deform_conv2d`` does, by ``grid_sample`` and a product.

    On a CPU it takes a third to a half of the time of torchvision's operator, with the backward pass a seventh to a
    fifth, and then two to three times its memory. Where a sample lies at a pixel's center, the bilinear kernel has a
    kink, and the offsets' gradient may be that of its other side.

    Args:
        x: (N, C, H, W).
        offsets: (N, 2 T G, H', W') in pixels, y before x, with H' and W' as of a convolution.
        weight: (F, C / groups, kh, kw).
        bias: (F,), or None.
        stride, padding, dilation: two ints each, for rows and columns.
        mask: (N, T G, H', W') factors of the samples, or None.

    Returns:
        (N, F, H', W').
    """
    taps = weight.shape[-2] * weight.shape[-1]
    (height, width), (rows, columns) = x.shape[-2:], offsets.shape[-2:]
    sampled_groups, groups = offsets.shape[1] // (2 * taps), x.shape[1] // weight.shape[1]
    settings = zip(weight.shape[-2:], (rows, columns), stride, padding, dilation)
    # Where the taps are without offsets: kh x H' and kw x W'.
    y, x0 = (
        (torch.arange(kernel, dtype=x.dtype) * d)[:, None] + torch.arange(size, dtype=x.dtype) * s - p
        for kernel, size, s, p, d in settings
    )
    y, x0 = y.repeat_interleave(len(x0), dim=0)[:, :, None], x0.repeat(len(y), 1)[:, None]  # T x H' x 1, T x 1 x W'
    moves = offsets.unflatten(1, (sampled_groups, taps, 2))
    # grid_sample's coordinates: -1 and 1 are the outer edges of the first and of the last pixel.
    grid = torch.stack(
        [((moves[:, :, :, 1] + x0) * 2 + 1) / width - 1, ((moves[:, :, :, 0] + y) * 2 + 1) / height - 1], dim=-1
    ).view(-1, taps * rows, columns, 2)  # N G x T H' x W' x 2
    maps = x.reshape(-1, x.shape[1] // sampled_groups, height, width)  # N G x C / G x H x W
    samples = F.grid_sample(maps, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    samples = samples.reshape(len(x), sampled_groups, -1, taps, rows * columns)
    if mask is not None:
        factors = mask.reshape(len(x), sampled_groups, 1, taps, rows * columns)
        samples = samples * factors if samples.requires_grad or factors.requires_grad else samples.mul_(factors)
    samples = samples.reshape(len(x), groups, -1, rows * columns)
    found = weight.reshape(groups, len(weight) // groups, -1) @ samples  # N x groups x F / groups x H' W'
    found = found.view(len(x), -1, rows, columns)
    return found if bias is None else found + bias[:, None, None]


def _pair(value: _Pair) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else tuple(value)

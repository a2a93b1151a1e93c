"""``BlurConv_{K,s}(X) = Blur_{M,s}(Conv_{K,1}(X))`` (thesis 3.3.2, equation 3.4), at the cost of a strided convolution.

N images, C input and O output channels, K kernel side, M taps of the blur, s stride, H' x W' size of the convolution at
stride 1.

As printed, the convolution runs at stride 1 and costs s^2 times the strided one that it replaces. But both maps are
linear and translation-invariant, so away from the border they commute and compose. Three methods give the same numbers:

- "plain": the equation as printed.
- "commuted": blur at stride 1, then convolve at stride s. This costs as much as the replaced convolution, and a pass
  over the input. A 1x1 convolution reads no neighbors, so all of the strided blur can come first, border included.
- "folded": one convolution of side K + M - 1 at stride s, whose kernel is the blurred kernel. It is one node of a
  graph, for runtimes without the blur, and does (K + M - 1)^2 / (s K)^2 of the work of "plain".

At the border, where the convolution's zeros meet the blur's padding, the order matters. There too, each output is one
product with the kernel, of mixed rows and columns of the input (:mod:`.blur_border`), at the cost of the other outputs.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from .blur_border import Side, write_border
from .blur_pool import binomial_filter, blur, check_blur

__all__ = ["METHODS", "blur_conv2d", "fold_kernel"]

METHODS = ("auto", "plain", "commuted", "folded")


def blur_conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: int = 2,
    taps: int = 3,
    blur_padding: str = "reflect",
    padding: Sequence[int] = (0, 0),
    dilation: Sequence[int] = (1, 1),
    groups: int = 1,
    method: str = "auto",
    kernel: Tensor | None = None,
) -> Tensor:
    """Convolve at stride 1, blur, keep every s-th position: equation 3.4.

    Args:
        x: (N, C, H, W).
        weight: (O, C / groups, K_h, K_w).
        bias: (O,), of the convolution.
        stride, taps, blur_padding: ``stride``, ``taps`` and ``padding`` of :func:`~.blur_pool.blur_pool`.
        padding, dilation, groups: of the convolution.
        method: "plain", "commuted", "folded", or "auto" for the one with the least work. Results differ by rounding.
        kernel: ``fold_kernel(weight, taps)`` for "folded", if the caller keeps it.

    Returns:
        (N, O, ceil(H' / s), ceil(W' / s)). Differentiable once.

    Raises:
        ValueError, TypeError: the blur or the method does not exist, or "folded" has a dilation.
    """
    check_blur(taps, stride, blur_padding)
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}; got {method!r}")
    if method == "folded" and tuple(dilation) != (1, 1):
        raise ValueError(f"dilation must be (1, 1) for method 'folded'; got {tuple(dilation)}")
    if (
        bias is not None and blur_padding == "zeros"
    ):  # at the border the bias is blurred with zeros, so it is not a constant
        method = "plain"
    sides = tuple(weight.shape[2:])
    if method in ("auto", "commuted") and sides == (1, 1) and tuple(padding) == (0, 0):
        return F.conv2d(blur(x, taps, stride, blur_padding), weight, bias, groups=groups)
    if method == "auto":
        method = "plain" if stride == 1 else "commuted"
    sizes = zip(x.shape[2:], sides, padding, dilation)
    rows, columns = (Side(*numbers, taps, stride, blur_padding) for numbers in sizes)
    if method == "plain" or x.numel() == 0 or not (rows.inner and columns.inner):
        return blur(F.conv2d(x, weight, bias, 1, padding, dilation, groups), taps, stride, blur_padding)
    if method == "commuted":
        # The blurred zeros around the map count too, as far as the convolution's padding reaches.
        smooth = blur(x, taps, 1, "zeros", tuple(padding))
        out = F.conv2d(smooth, weight, bias, stride, 0, dilation, groups)
    else:
        kernel = fold_kernel(weight, taps) if kernel is None else kernel
        if taps % 2 == 0:  # the blur reaches further on one side, so a row and a column of zeros make the padding even
            kernel = F.pad(kernel, (1, 0, 1, 0))
        out = F.conv2d(x, kernel, bias, stride, [p + taps // 2 for p in padding], 1, groups)

    write_border(out, x, weight, bias, rows, columns, groups)
    return out


def fold_kernel(weight: Tensor, taps: int) -> Tensor:
    """Return the kernel of Blur_{M,s} after Conv_{K,1}: (O, C, K, K) -> (O, C, K + M - 1, K + M - 1)."""
    line = torch.tensor(binomial_filter(taps), dtype=weight.dtype, device=weight.device)
    o, c, height, width = weight.shape
    filters = weight.reshape(o * c, 1, height, width)
    spread = F.conv2d(filters, (line[:, None] * line)[None, None], padding=taps - 1)
    return spread.reshape(o, c, *spread.shape[2:])

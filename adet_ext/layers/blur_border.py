"""The outermost outputs of a blurred convolution, each from rows and columns mixed for it (thesis equation 3.4).

K side of the kernel, M taps of the blur, s stride. An output of the blur is a weighted sum of M rows of the
convolution, some of them twice where the blur's padding mirrors, and each of those is the kernel on K rows of the
input, some of them zeros. The kernel is the same in all: the output is the kernel on K weighted sums of input rows.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from .blur_pool import binomial_filter

__all__ = ["Side"]


class Side:
    """One direction of a map.

    Attributes:
        out: how many outputs there are.
        inner: those that no border touches: a convolution of the blurred input gives them.
        edge: the others.
    """

    def __init__(self, size: int, kernel: int, padding: int, dilation: int, taps: int, stride: int, blur_padding: str):
        """``padding``, ``dilation``: the convolution's; ``blur_padding``: see :func:`~.blur_pool.blur_pool2d`."""
        self.size, self.kernel, self.padding, self.dilation = size, kernel, padding, dilation
        self.taps, self.stride, self.blur_padding = taps, stride, blur_padding
        self.conv = size + 2 * padding - dilation * (kernel - 1)
        self.out = -(-self.conv // stride)
        before, after = (taps - 1) // 2, taps // 2
        start = -(-before // stride)
        self.inner = range(start, max(min((self.conv - 1 - after) // stride + 1, self.out), start))
        self.edge = [*range(start), *range(self.inner.stop, self.out)]

    def mix(self, x: Tensor, axis: int, outputs: Sequence[int]) -> Tensor:
        """What the kernel meets at ``outputs``: K rows each, side by side instead of ``axis``."""
        x, start = self._near(x, axis) if outputs is self.edge else (x, 0)
        line = torch.tensor(binomial_filter(self.taps), dtype=x.dtype, device=x.device)
        tap, step = (torch.arange(n, device=x.device) for n in (self.taps, self.kernel))
        output = torch.tensor(outputs, device=x.device)
        row = output[:, None] * self.stride - (self.taps - 1) // 2 + tap  # of the convolution; (outputs, M)
        inside = (row >= 0) & (row < self.conv)
        if self.blur_padding == "reflect":
            row = row % max(2 * self.conv - 2, 1)
            row = torch.minimum(row, (2 * self.conv - 2 - row).abs())
        row = row.clamp(0, self.conv - 1)
        weight = line * inside if self.blur_padding == "zeros" else line.expand(row.shape)
        place = row[:, None] - self.padding + step[:, None] * self.dilation  # of the input; (outputs, K, M)
        weight = weight[:, None] * ((place >= 0) & (place < self.size))
        # What was left out of x lies between its two parts, and nothing at the edge reaches there.
        place = torch.where(place < self.size // 2, place, place - start)
        place = place.clamp(0, x.shape[axis] - 1)
        rows = x.index_select(axis, place.flatten()).unflatten(axis, (place.shape[0] * self.kernel, self.taps))
        return (rows * weight.view(-1, self.taps, *[1] * (x.dim() - axis - 1))).sum(axis + 1)

    def _near(self, x: Tensor, axis: int) -> tuple[Tensor, int]:
        """The ends of ``x`` that the outputs at the edge are made of, together, and how much lay between them."""
        reach = self.taps + self.dilation * (self.kernel - 1)
        between = self.size - 2 * reach
        if between <= 0:
            return x, 0
        return torch.cat([x.narrow(axis, 0, reach), x.narrow(axis, self.size - reach, reach)], axis), between

    def write(self, out: Tensor, strip: Tensor, axis: int) -> None:
        """Put the outputs at the edge into ``out``."""
        first, rest = self.inner.start, self.out - self.inner.stop
        out.narrow(axis, 0, first).copy_(strip.narrow(axis, 0, first))
        out.narrow(axis, self.inner.stop, rest).copy_(strip.narrow(axis, first, rest))

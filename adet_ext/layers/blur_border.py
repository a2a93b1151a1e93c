"""Compute the outermost outputs of a blurred convolution from mixed rows and columns (thesis equation 3.4).

N images, C input and O output channels, H and W size of the input, K side of the kernel, M taps of the blur, s stride.

An output of the blur is a weighted sum of M rows of the convolution. The blur's padding may mirror some of them. Each
row of the convolution is the kernel applied to K rows of the input, some of them zeros. The kernel is the same for all,
so the output is the kernel applied to K weighted sums of input rows.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from .blur_pool import binomial_filter

__all__ = ["Side", "write_border"]


class Side:
    """One direction of a map, rows or columns.

    Attributes:
        out: the number of outputs.
        inner: the outputs that do not depend on a border. A convolution of the blurred input computes them.
        edge: ranges of the outputs before and after these, without empty ranges.
    """

    def __init__(self, size: int, kernel: int, padding: int, dilation: int, taps: int, stride: int, blur_padding: str):
        """``padding``, ``dilation``: of the convolution. ``blur_padding``: see :func:`~.blur_pool.blur_pool`."""
        self.size, self.kernel, self.padding, self.dilation = size, kernel, padding, dilation
        self.taps, self.stride, self.blur_padding = taps, stride, blur_padding
        self.conv = size + 2 * padding - dilation * (kernel - 1)
        self.out = -(-self.conv // stride)
        before, after = (taps - 1) // 2, taps // 2
        start = -(-before // stride)
        self.inner = range(start, max(min((self.conv - 1 - after) // stride + 1, self.out), start))
        self.edge = [part for part in (range(start), range(self.inner.stop, self.out)) if part]

    def mix(self, x: Tensor, axis: int, outputs: Sequence[range]) -> Tensor:
        """Return the K mixed rows that the kernel needs for each of ``outputs``, in place of the rows of ``axis``.

        x is (N, H, W, C). In channels-last models its channels are dense, and whole rows are copied.
        """
        x, between = self._near(x, axis) if outputs is self.edge else (x, 0)
        # Everything is made on the device. A copy from the host would make it wait, and end the capture of a graph.
        line = torch.cat([x.new_full((1,), value) for value in binomial_filter(self.taps)])
        tap, step = (torch.arange(n, device=x.device) for n in (self.taps, self.kernel))
        output = torch.cat([torch.arange(part.start, part.stop, device=x.device) for part in outputs])
        row = output[:, None] * self.stride - (self.taps - 1) // 2 + tap  # of the convolution; (outputs, M)
        inside = (row >= 0) & (row < self.conv)
        if self.blur_padding == "reflect":
            row = row % max(2 * self.conv - 2, 1)
            row = torch.minimum(row, (2 * self.conv - 2 - row).abs())
        row = row.clamp(0, self.conv - 1)
        weight = line * inside if self.blur_padding == "zeros" else line.expand(row.shape)
        place = row[:, None] - self.padding + step[:, None] * self.dilation  # of the input; (outputs, K, M)
        weight = weight[:, None] * ((place >= 0) & (place < self.size))
        place = torch.where(place < self.size // 2, place, place - between)
        place = place.clamp(0, x.shape[axis] - 1)
        rows = x.index_select(axis, place.flatten()).unflatten(axis, (-1, self.taps))
        return (rows * weight.view(-1, self.taps, *[1] * (x.dim() - axis - 1))).sum(axis + 1)

    def _near(self, x: Tensor, axis: int) -> tuple[Tensor, int]:
        """Return the two ends of ``x`` that the edge depends on, joined, and the size of the part between them."""
        reach = self.taps + self.dilation * (self.kernel - 1)
        between = self.size - 2 * reach
        if between <= 0:
            return x, 0
        return torch.cat([x.narrow(axis, 0, reach), x.narrow(axis, self.size - reach, reach)], axis), between


def write_border(
    out: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, rows: Side, columns: Side, groups: int
) -> None:
    """Overwrite the outputs at the edges of ``out`` (N, O, H', W'), with the corners.

    Both directions share one product with the kernel, because in the last stages the kernel is the larger factor.
    """
    x = x.permute(0, 2, 3, 1)  # (N, H, W, C)
    strips = []
    if rows.edge:
        strips.append((rows, 2, columns.mix(rows.mix(x, 1, rows.edge), 2, [range(columns.out)])))
    if columns.edge:
        strips.append((columns, 3, rows.mix(columns.mix(x, 2, columns.edge), 1, [range(rows.out)])))
    if not strips:
        return
    patches, shapes = [], []
    for _, _, strip in strips:
        patch = strip.unflatten(2, (-1, columns.kernel)).unflatten(1, (-1, rows.kernel)).transpose(2, 3)
        shapes.append(patch.shape[:3])  # (N, rows, columns), each of K x K x C
        patches.append(patch.unflatten(5, (groups, -1)).movedim(5, 0).flatten(4).flatten(1, 3))
    kernel = weight.unflatten(0, (groups, -1)).permute(0, 1, 3, 4, 2).flatten(2)  # (groups, O / groups, K K C / groups)
    values = torch.cat(patches, 1) @ kernel.transpose(1, 2)  # (groups, places, O / groups)
    values = values.transpose(0, 1).flatten(1)
    values = values if bias is None else values + bias
    for (side, axis, _), shape, part in zip(strips, shapes, values.split([shape.numel() for shape in shapes])):
        part, first = part.unflatten(0, shape).permute(0, 3, 1, 2), 0
        for place in side.edge:
            out.narrow(axis, place.start, len(place)).copy_(part.narrow(axis, first, len(place)))
            first += len(place)

"""Compute the outermost outputs of a blurred convolution from mixed rows and columns (thesis equation 3.4).

N images, C input and O output channels, H and W size of the input, K side of the kernel, M taps of the blur, s stride.

An output of the blur is a weighted sum of M rows of the convolution. The blur's padding may mirror some of them. Each
row of the convolution is the kernel applied to K rows of the input, some of them zeros. The kernel is the same for all,
so the output is the kernel applied to K weighted sums of input rows.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .blur_pool import binomial_filter
from .tables import can_keep, stream_of

__all__ = ["Side", "write_border"]


class _Mixture(NamedTuple):
    """Which rows of a map are mixed, and how."""

    place: Tensor  # (outputs K M,) int64, rows of the map
    weight: Tensor  # (outputs K, M)


class Side:
    """One direction of a map, rows or columns.

    Attributes:
        out: the number of outputs.
        inner: the outputs that do not depend on a border. A convolution of the blurred input computes them.
        edge: ranges of the outputs before and after these, without empty ranges.
    """

    def __init__(self, size: int, kernel: int, padding: int, dilation: int, taps: int, stride: int, blur_padding: str):
        """``padding``, ``dilation``: of the convolution. ``blur_padding``: see :func:`~.blur_pool.blur_pool`."""
        self.geometry = (size, kernel, padding, dilation, taps, stride, blur_padding)
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
        place, weight = self._mixture(outputs, x.shape[axis], between, x)
        rows = x.index_select(axis, place).unflatten(axis, (-1, self.taps))
        return (rows * weight.view(-1, self.taps, *[1] * (x.dim() - axis - 1))).sum(axis + 1)

    def _mixture(self, outputs: Sequence[range], length: int, between: int, like: Tensor) -> _Mixture:
        """The last ones are kept, as making one takes about 25 kernels."""
        ranges = tuple((part.start, part.stop) for part in outputs)
        key = (self.geometry, ranges, length, between, like.dtype, like.device)
        numbers = (n for n in (*self.geometry[:-1], *sum(ranges, ()), length, between))
        if not can_keep(numbers, like.device):
            return _make_mixture(*key)
        return _kept_mixture(*key, stream_of(like.device))

    def _near(self, x: Tensor, axis: int) -> tuple[Tensor, int]:
        """Return the two ends of ``x`` that the edge depends on, joined, and the size of the part between them."""
        reach = self.taps + self.dilation * (self.kernel - 1)
        between = self.size - 2 * reach
        if between <= 0:
            return x, 0
        return torch.cat([x.narrow(axis, 0, reach), x.narrow(axis, self.size - reach, reach)], axis), between


@functools.lru_cache(maxsize=256)
def _kept_mixture(geometry, ranges, length, between, dtype, device, stream: int) -> _Mixture:
    with torch.inference_mode(False):  # training may not read what inference mode makes
        return _make_mixture(geometry, ranges, length, between, dtype, device)


def _make_mixture(
    geometry: tuple,
    ranges: Sequence[tuple[int, int]],
    length: int,
    between: int,
    dtype: torch.dtype,
    device: torch.device,
) -> _Mixture:
    """Make it on the device: a copy from the host would make it wait, and end the capture of a graph.

    Args:
        geometry: the arguments of :class:`Side`.
        ranges: start and end of the outputs.
        length, between: rows of the map, and how many of its middle were left out of it.
    """
    side = Side(*geometry)
    line = torch.cat([torch.full((1,), value, dtype=dtype, device=device) for value in binomial_filter(side.taps)])
    tap, step = (torch.arange(n, device=device) for n in (side.taps, side.kernel))
    output = torch.cat([torch.arange(start, stop, device=device) for start, stop in ranges])
    row = output[:, None] * side.stride - (side.taps - 1) // 2 + tap  # of the convolution; (outputs, M)
    inside = (row >= 0) & (row < side.conv)
    if side.blur_padding == "reflect":
        row = row % max(2 * side.conv - 2, 1)
        row = torch.minimum(row, (2 * side.conv - 2 - row).abs())
    row = row.clamp(0, side.conv - 1)
    weight = line * inside if side.blur_padding == "zeros" else line.expand(row.shape)
    place = row[:, None] - side.padding + step[:, None] * side.dilation  # of the input; (outputs, K, M)
    weight = weight[:, None] * ((place >= 0) & (place < side.size))
    place = torch.where(place < side.size // 2, place, place - between)
    return _Mixture(place.clamp(0, length - 1).flatten(), weight.flatten(0, 1))


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

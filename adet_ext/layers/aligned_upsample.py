"""Enlarge a map by two, aligned with strided convolutions (thesis 5.4.3 and Table 5.5).

N images, C channels, h x w the map to enlarge, H x W the result.

A convolution of stride 2, kernel 3 and padding 1 centers its output i on input 2 i, and gives ceil(H / 2) outputs.
Accordingly, sample i is put at place 2 i, and the places between are interpolated. If H is odd, the extra last row is
cut off (columns likewise), and nothing moves. Resizing to H x W instead would stretch the map by H / ceil(H / 2) < 2
and shift it by half a pixel. Over five levels the errors add up, so other code pads images to a multiple of the
coarsest stride.
"""

from collections.abc import Sequence

import torch
from torch.nn import functional as F

__all__ = ["aligned_upsample"]


def aligned_upsample(x: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """Interpolate bilinearly by two: result (2 i, 2 j) is x (i, j). Beyond the last sample it is repeated.

    Args:
        x: (N, C, h, w).
        size: (H, W), each twice the size of ``x`` or one less.

    Returns:
        (N, C, H, W), which may be a view into a map of one row and column more.

    Raises:
        ValueError: ``x`` is not every second sample of a map of this size.
    """
    height, width = size
    h, w = x.shape[-2:]
    if (h, w) != ((height + 1) // 2, (width + 1) // 2):
        raise ValueError(
            f"size must be {2 * h} x {2 * w}, or one row or column less, for a map of {h} x {w}; got {height} x {width}"
        )
    x = F.pad(x, (0, 1, 0, 1), mode="replicate")
    x = F.interpolate(x, size=(2 * h + 1, 2 * w + 1), mode="bilinear", align_corners=True)
    return x[..., :height, :width]

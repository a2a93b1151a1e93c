"""Choose the level of the pyramid that an object's mask is predicted from: sizes of interest, canonical length L.

B boxes, P levels.
"""

import torch

__all__ = ["canonical_sizes", "level_by_longer_side"]


def canonical_sizes(length: float, num_levels: int) -> list[float]:
    """Return the upper ends of the sizes of interest of all levels but the last, in pixels.

    Level p = 1, 2, ... has [2^(p-2) L, 2^(p-1) L) (thesis 3.3.2); the first also has smaller sizes, the last larger
    ones.

    Raises:
        ValueError: the length is not positive.
    """
    if length <= 0:
        raise ValueError(f"a canonical length must be a positive number of pixels; got {length}")
    return [length * 2**p for p in range(num_levels - 1)]


def level_by_longer_side(boxes: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
    """Return the level, (B,) int64 from 0, whose sizes of interest hold the longer side of each box (section 3.4).

    Args:
        boxes: (B, 4), absolute (x0, y0, x1, y1) in pixels.
        ends: (P - 1,), the :func:`canonical_sizes`, on the device of the boxes.
    """
    side = (boxes[:, 2:] - boxes[:, :2]).amax(dim=1)  # (B,)
    return torch.bucketize(side, ends.to(boxes.dtype), right=True)

"""Which level of the pyramid an object's mask is predicted from: sizes of interest and the canonical length L.

D boxes, P levels.
"""

import torch

__all__ = ["canonical_sizes", "level_by_longer_side"]


def canonical_sizes(length: float, num_levels: int) -> list[float]:
    """Upper ends of the sizes of interest of all levels but the last, in pixels.

    Level p = 1, 2, ... takes [2^(p-2) L, 2^(p-1) L) (thesis 3.3.2); the first also what is smaller, the last what is
    larger.

    Raises:
        ValueError: the length is not positive.
    """
    if length <= 0:
        raise ValueError(f"a canonical length is a positive number of pixels, not {length}")
    return [length * 2**p for p in range(num_levels - 1)]


def level_by_longer_side(boxes: torch.Tensor, length: float, num_levels: int) -> torch.Tensor:
    """The level, (D,) int64 from 0, whose sizes of interest hold the longer side of each box (section 3.4).

    Args:
        boxes: (D, 4), absolute (x0, y0, x1, y1) in pixels.
        length: L, the canonical length, in pixels.
        num_levels: P.
    """
    ends = torch.tensor(canonical_sizes(length, num_levels), dtype=boxes.dtype, device=boxes.device)
    side = (boxes[:, 2:] - boxes[:, :2]).amax(dim=1)  # (D,)
    return torch.bucketize(side, ends, right=True)

"""A feature pyramid for images of any size (thesis 5.4.3): odd maps are cropped, not padded.

C channels of the pyramid; H_l, W_l the size of level l, half that of the finer one, rounded up.
"""

import torch

from ...d2.modeling import FPN
from .pyramid_and_body import PyramidAndBody, merge_levels

__all__ = ["AlignedFPN", "AlignedPyramidAndBody"]


class AlignedFPN(FPN):
    """FPN with a size divisibility of its own; levels may be of odd size, see :func:`merge_levels`.

    Parameters are named as FPN's, and numbers are FPN's where sizes fit.
    """

    def __init__(self, *, size_divisibility: int, **fpn):
        """
        Args:
            size_divisibility: the height and width of images are padded to a multiple of it; at least the stride of
                the body's stem, which is 4 for a ResNet, or 1 where padding is not wanted at all.
            fpn: see FPN.
        """
        super().__init__(**fpn)
        if size_divisibility < 1:
            raise ValueError(f"size_divisibility is {size_divisibility}; it must be positive")
        self._size_divisibility = size_divisibility

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Images (N, 3, H, W) to levels (N, C, H_l, W_l) by name, finest first."""
        return merge_levels(self, self.bottom_up(x))


class AlignedPyramidAndBody(PyramidAndBody, AlignedFPN):
    """An aligned FPN whose output also has some of the body's features."""

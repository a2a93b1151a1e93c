"""A feature pyramid for images of any size (thesis 5.4.3): odd maps are cropped, not padded.

C channels of the pyramid; H_l, W_l the size of level l, half that of the finer one, rounded up.
"""

import torch
from torch.nn import functional as F

from ...d2.modeling import FPN
from .pyramid_and_body import PyramidAndBody

__all__ = ["AlignedFPN", "AlignedPyramidAndBody"]


class AlignedFPN(FPN):
    """FPN with a size divisibility of its own. Parameters are named as FPN's, and numbers are FPN's where sizes fit.

    A level of odd size is half the finer one's, rounded up; doubled it is a row or column too large and loses it
    at the bottom or at the right, so that it stays where strided convolutions sampled it.
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
            raise ValueError(f"size_divisibility is {size_divisibility}; it takes a positive number")
        self._size_divisibility = size_divisibility

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Images (N, 3, H, W) to levels (N, C, H_l, W_l) by name, finest first."""
        body = self.bottom_up(x)
        merged = self.lateral_convs[0](body[self.in_features[-1]])
        levels = [self.output_convs[0](merged)]
        for name, lateral, output in zip(self.in_features[-2::-1], self.lateral_convs[1:], self.output_convs[1:]):
            finer = lateral(body[name])
            height, width = finer.shape[-2:]
            merged = finer + F.interpolate(merged, scale_factor=2.0, mode="nearest")[..., :height, :width]
            if self._fuse_type == "avg":
                merged = merged / 2
            levels.insert(0, output(merged))
        if self.top_block is not None:
            source = self.top_block.in_feature
            levels.extend(self.top_block(body[source] if source in body else levels[self._out_features.index(source)]))
        return dict(zip(self._out_features, levels))


class AlignedPyramidAndBody(PyramidAndBody, AlignedFPN):
    """An aligned FPN whose output also has some of the body's features."""

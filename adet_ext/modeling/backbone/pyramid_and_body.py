"""A feature pyramid that also returns some of its body's features.

BlendMask's bottom module may read C3 and C5 (thesis Table 4.4), which FPN does not return.
"""

from collections.abc import Sequence

import torch
from torch.nn import functional as F

from ...d2.layers import ShapeSpec
from ...d2.modeling import FPN

__all__ = ["PyramidAndBody", "merge_levels"]


def merge_levels(fpn: FPN, body: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the levels of ``fpn``, finest first, from the features of its body.

    The numbers are FPN's where every level is half the finer one's size. A level of odd size is half the finer one's,
    rounded up; doubled it is a row or column too large and is cropped at the bottom or right, so that it stays where
    strided convolutions sampled it.
    """
    merged = fpn.lateral_convs[0](body[fpn.in_features[-1]])
    levels = [fpn.output_convs[0](merged)]
    for name, lateral, output in zip(fpn.in_features[-2::-1], fpn.lateral_convs[1:], fpn.output_convs[1:]):
        finer = lateral(body[name])
        height, width = finer.shape[-2:]
        finer += F.interpolate(merged, scale_factor=2.0, mode="nearest")[..., :height, :width]
        if fpn._fuse_type == "avg":
            finer /= 2
        merged = finer
        levels.insert(0, output(merged))
    if fpn.top_block is not None:
        source = fpn.top_block.in_feature
        levels.extend(fpn.top_block(body[source] if source in body else levels[fpn._out_features.index(source)]))
    return dict(zip(fpn._out_features, levels))


class PyramidAndBody(FPN):
    """An FPN whose output also has the body's features named in ``handed_on``. Parameters are named as FPN's."""

    def __init__(self, *, handed_on: Sequence[str], **fpn):
        super().__init__(**fpn)
        self.handed_on = list(handed_on)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """(N, 3, H, W) -> one (N, C, H / stride, W / stride) map per name."""
        body = self.bottom_up(x)
        return {**merge_levels(self, body), **{name: body[name] for name in self.handed_on}}

    def output_shape(self) -> dict[str, ShapeSpec]:
        body = self.bottom_up.output_shape()
        return {**super().output_shape(), **{name: body[name] for name in self.handed_on}}

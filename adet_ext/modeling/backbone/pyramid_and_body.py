"""A feature pyramid that hands on some of its body's features beside its own levels.

BlendMask's bottom module may read C3 and C5 (thesis Table 4.4), which a pyramid keeps to itself.
"""

from collections.abc import Sequence

import torch

from ...d2.layers import ShapeSpec
from ...d2.modeling import FPN

__all__ = ["PyramidAndBody"]


class PyramidAndBody(FPN):
    """An FPN whose output also has the body's features named in ``handed_on``. Parameters are named as FPN's."""

    def __init__(self, *, handed_on: Sequence[str], **fpn):
        super().__init__(**fpn)
        self.handed_on = list(handed_on)
        self._seen: dict[str, torch.Tensor] = {}
        self.bottom_up.register_forward_hook(self._keep)

    def _keep(self, body, inputs, output: dict[str, torch.Tensor]) -> None:
        self._seen = {name: output[name] for name in self.handed_on}

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """(N, 3, H, W) -> one (N, C, H / stride, W / stride) map a name."""
        features = dict(super().forward(x))
        features.update(self._seen)
        self._seen = {}  # or the graph of this iteration would live as long as the model
        return features

    def output_shape(self) -> dict[str, ShapeSpec]:
        body = self.bottom_up.output_shape()
        return {**super().output_shape(), **{name: body[name] for name in self.handed_on}}

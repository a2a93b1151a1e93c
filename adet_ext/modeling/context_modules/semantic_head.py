"""The semantic branch of Panoptic-FPN with a context module before its classifier."""

from typing import Any

from torch import Tensor

from ...d2.config import configurable
from ...d2.layers import ShapeSpec
from ...d2.modeling import SEM_SEG_HEADS_REGISTRY, SemSegFPNHead
from .build import build_context_module

__all__ = ["ContextSemSegFPNHead"]


@SEM_SEG_HEADS_REGISTRY.register()
class ContextSemSegFPNHead(SemSegFPNHead):
    """SemSegFPNHead whose summed features pass ``MODEL.CONTEXT``'s module before they are classified.

    The other parameters keep SemSegFPNHead's names, so that its checkpoints load.
    """

    @configurable
    def __init__(self, input_shape: dict[str, ShapeSpec], *, context, **head):
        """
        Args:
            context: the module, for ``conv_dims`` channels.
            head: the other arguments of SemSegFPNHead.
        """
        super().__init__(input_shape, **head)
        self.context = context

    @classmethod
    def from_config(cls, cfg, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        return {
            **super().from_config(cfg, input_shape),
            "context": build_context_module(cfg, cfg.MODEL.SEM_SEG_HEAD.CONVS_DIM),
        }

    def layers(self, features: dict[str, Tensor]) -> Tensor:
        """Return logits (N, C, H / s, W / s)."""
        levels = [getattr(self, name)(features[name]) for name in self.in_features]
        return self.predictor(self.context(sum(levels[1:], start=levels[0])))

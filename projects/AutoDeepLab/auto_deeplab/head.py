"""A semantic decoder on any backbone: a pyramid on the coarse feature, joined with a fine one as in DeepLabv3+.

N images of H x W pixels, C classes, s the stride of the logits.
"""

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from adet_ext.d2.config import configurable
from adet_ext.d2.layers import ShapeSpec, get_norm
from adet_ext.d2.modeling import SEM_SEG_HEADS_REGISTRY
from adet_ext.layers.resized_cross_entropy import resized_cross_entropy
from adet_ext.modeling.checks import check_features
from adet_ext.modeling.context_modules import build_context_module

from .operations import resize
from .pyramids import build_pyramid, conv_norm_relu

__all__ = ["AtrousHead"]


@SEM_SEG_HEADS_REGISTRY.register()
class AtrousHead(nn.Module):
    """Pyramid; with a fine feature, two 3x3 convolutions on both; then the classifier, at the stride of what it reads.

    The context module of MODEL.CONTEXT follows the pyramid.
    """

    @configurable
    def __init__(
        self,
        *,
        in_features: list[str],
        pyramid: nn.Module,
        context: nn.Module,
        decoder: nn.ModuleDict | None,
        predictor: nn.Module,
        loss_weight: float,
        ignore_value: int,
        common_stride: int,
    ):
        """
        Args:
            in_features: the coarse feature alone, or the fine and the coarse one.
            decoder: "project" for the fine feature and "convs" on both; None without a fine feature.
            common_stride: s.
        """
        super().__init__()
        self.in_features = list(in_features)
        self.pyramid, self.context, self.decoder, self.predictor = pyramid, context, decoder, predictor
        self.loss_weight, self.ignore_value, self.common_stride = loss_weight, ignore_value, common_stride

    @classmethod
    def from_config(cls, cfg, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        node, head = cfg.MODEL.SEM_SEG_HEAD, cfg.MODEL.ATROUS_HEAD
        check_features("MODEL.SEM_SEG_HEAD.IN_FEATURES", node.IN_FEATURES, input_shape)
        if len(node.IN_FEATURES) > 2:
            raise ValueError(
                f"MODEL.SEM_SEG_HEAD.IN_FEATURES must name one or two features for AtrousHead; got {node.IN_FEATURES}"
            )
        shapes = [input_shape[name] for name in node.IN_FEATURES]
        if node.COMMON_STRIDE != shapes[0].stride:
            raise ValueError(
                f"MODEL.SEM_SEG_HEAD.COMMON_STRIDE must be {shapes[0].stride}, the stride of "
                f"{node.IN_FEATURES[0]}, which AtrousHead classifies; got {node.COMMON_STRIDE}"
            )

        def make_norm(channels: int) -> nn.Module:
            return get_norm(node.NORM or "BN", channels)

        decoder = None
        if len(shapes) == 2:
            joined = head.WIDTH + head.FINE_WIDTH
            convs = [conv_norm_relu(n, head.WIDTH, make_norm, 3) for n in (joined, head.WIDTH)]
            project = conv_norm_relu(shapes[0].channels, head.FINE_WIDTH, make_norm)
            decoder = nn.ModuleDict({"project": project, "convs": nn.Sequential(*convs)})
        predictor = nn.Conv2d(head.WIDTH, node.NUM_CLASSES, 1)
        nn.init.normal_(predictor.weight, std=0.01)
        nn.init.zeros_(predictor.bias)
        return {
            "in_features": node.IN_FEATURES,
            "pyramid": build_pyramid(cfg, shapes[-1].channels, make_norm),
            "context": build_context_module(cfg, head.WIDTH),
            "decoder": decoder,
            "predictor": predictor,
            "loss_weight": node.LOSS_WEIGHT,
            "ignore_value": node.IGNORE_VALUE,
            "common_stride": node.COMMON_STRIDE,
        }

    def layers(self, features: dict[str, torch.Tensor]) -> torch.Tensor:
        """Return logits (N, C, H / s, W / s)."""
        x = self.context(self.pyramid(features[self.in_features[-1]]))
        if self.decoder is not None:
            fine = self.decoder["project"](features[self.in_features[0]])
            x = self.decoder["convs"](torch.cat([resize(x, tuple(fine.shape[-2:])), fine], dim=1))
        return self.predictor(x)

    def forward(
        self, features: dict[str, torch.Tensor], targets: torch.Tensor | None = None
    ) -> tuple[torch.Tensor | None, dict[str, torch.Tensor]]:
        """Return (None, losses) in training, else (logits (N, C, H, W), {}).

        Args:
            targets: labels (N, H, W), in training.
        """
        logits = self.layers(features)
        if self.training:
            return None, self.losses(logits, targets)
        return self._enlarged(logits), {}

    def losses(self, logits: torch.Tensor, targets: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return ``loss_sem_seg``, the mean cross-entropy over labeled pixels; zero where there are none."""
        height, width = (side * self.common_stride for side in logits.shape[-2:])
        margins = [0, width - targets.shape[-1], 0, height - targets.shape[-2]]
        labels = F.pad(targets, margins, value=self.ignore_value)
        loss = resized_cross_entropy(logits, labels, ignored=self.ignore_value)
        return {"loss_sem_seg": loss * self.loss_weight}

    def _enlarged(self, logits: torch.Tensor) -> torch.Tensor:
        return F.interpolate(logits, scale_factor=self.common_stride, mode="bilinear", align_corners=False)

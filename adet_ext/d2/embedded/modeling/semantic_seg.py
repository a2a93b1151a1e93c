"""The semantic branch of Panoptic-FPN (Kirillov et al. 2019).

N images of H x W pixels, C classes, D channels of the branch, s its stride.
"""

import math
from collections.abc import Callable

import fvcore.nn.weight_init as weight_init
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import CfgNode, configurable
from ..layers import Conv2d, ShapeSpec, get_norm
from .build import SEM_SEG_HEADS_REGISTRY


@SEM_SEG_HEADS_REGISTRY.register()
class SemSegFPNHead(nn.Module):
    """Resize every level of the pyramid to one stride, add them up and classify each place.

    A level of stride 2^k s passes k rounds (one round if k = 0) of a 3x3 convolution, its norm and ReLU. Each
    round ends with bilinear enlargement by two, except at stride s.
    """

    @configurable
    def __init__(
        self,
        input_shape: dict[str, ShapeSpec],
        *,
        num_classes: int,
        conv_dims: int,
        common_stride: int,
        loss_weight: float = 1.0,
        norm: str | Callable | None = None,
        ignore_value: int = -1,
    ):
        """
        Args:
            input_shape: channels and stride of the features that are read.
            num_classes: C.
            conv_dims: D.
            common_stride: s.
            norm: after each 3x3 convolution.
            ignore_value: the label of pixels that the loss leaves out.
        """
        super().__init__()
        if not input_shape:
            raise ValueError("a semantic head needs at least one feature; MODEL.SEM_SEG_HEAD.IN_FEATURES names none")
        levels = sorted(input_shape.items(), key=lambda item: item[1].stride)
        self.in_features = [name for name, _ in levels]
        self.common_stride = common_stride
        self.loss_weight = loss_weight
        self.ignore_value = ignore_value
        for name, shape in levels:
            self.add_module(name, self._level(shape, conv_dims, norm))
        self.predictor = Conv2d(conv_dims, num_classes, kernel_size=1)
        weight_init.c2_msra_fill(self.predictor)

    def _level(self, shape: ShapeSpec, channels: int, norm: str | Callable | None) -> nn.Sequential:
        layers: list[nn.Module] = []
        for i in range(max(1, int(math.log2(shape.stride) - math.log2(self.common_stride)))):
            conv = Conv2d(
                channels if i else shape.channels,
                channels,
                kernel_size=3,
                padding=1,
                bias=not norm,
                norm=get_norm(norm, channels),
                activation=F.relu,
            )
            weight_init.c2_msra_fill(conv)
            layers.append(conv)
            if shape.stride != self.common_stride:
                layers.append(nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False))
        return nn.Sequential(*layers)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict:
        node = cfg.MODEL.SEM_SEG_HEAD
        return {
            "input_shape": {name: shape for name, shape in input_shape.items() if name in node.IN_FEATURES},
            "num_classes": node.NUM_CLASSES,
            "conv_dims": node.CONVS_DIM,
            "common_stride": node.COMMON_STRIDE,
            "loss_weight": node.LOSS_WEIGHT,
            "norm": node.NORM,
            "ignore_value": node.IGNORE_VALUE,
        }

    def forward(self, features: dict[str, Tensor], targets: Tensor | None = None) -> tuple[Tensor | None, dict]:
        """Return (None, losses) in training, else (logits (N, C, H, W), {})."""
        logits = self.layers(features)
        if self.training:
            return None, self.losses(logits, targets)
        return self._enlarged(logits), {}

    def layers(self, features: dict[str, Tensor]) -> Tensor:
        """Return logits (N, C, H / s, W / s)."""
        total = None
        for name in self.in_features:
            level = getattr(self, name)(features[name])
            total = level if total is None else total + level
        return self.predictor(total)

    def losses(self, predictions: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Return ``loss_sem_seg``, the mean cross-entropy over labeled pixels.

        Args:
            predictions: the result of :meth:`layers`.
            targets: labels (N, H, W).
        """
        logits = self._enlarged(predictions.float())  # half precision is not enough for a mean over a million pixels
        loss = F.cross_entropy(logits, targets, ignore_index=self.ignore_value)
        return {"loss_sem_seg": loss * self.loss_weight}

    def _enlarged(self, logits: Tensor) -> Tensor:
        return F.interpolate(logits, scale_factor=self.common_stride, mode="bilinear", align_corners=False)

"""SmalMask2 (thesis 3.4): the two-stage form. FCOS, and one layer on regions of its box tower.

N images, D boxes, G objects of a batch, C channels, k x k samples a box, M the side of a mask.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from ...d2.config import configurable
from ...d2.modeling import META_ARCH_REGISTRY, Backbone
from ...d2.structures import Instances
from ...layers.roi_pred import roi_pred
from ..fcos.fcos import FCOS
from ..fcos.head import HeadOutput
from ..fcos.inference import Detections
from ..fcos.losses import Positives, reduce_mean
from ..one_stage import OneStageDetector
from .mask_targets import crop_objects, gather_boxes
from .poolers import canonical_sizes, level_by_longer_side
from .smalmask import with_canonical_length

__all__ = ["SmalHead", "SmalMask2"]


class SmalHead(nn.Module):
    """RoIAlign with one sample a bin, and one fully connected layer (Figure 3.4).

    It computes what :class:`RoIPredictor` computes from the same parameters: ``fc.weight`` (M^2, k^2 C) is that layer's
    weight (M^2, C, k, k), sample by sample with the channels of each together.
    """

    def __init__(self, *, in_channels: int, mask_size: int, kernel: int, strides: Sequence[float]):
        """
        Args:
            in_channels, mask_size, kernel: C, M, k.
            strides: of the levels, in pixels.
        """
        super().__init__()
        if kernel < 1:
            raise ValueError(f"MODEL.SMALMASK.KERNEL must be positive; got {kernel}")
        self.in_channels = in_channels
        self.kernel = kernel
        self.mask_size = mask_size
        self.strides = list(strides)
        self.fc = nn.Linear(in_channels * kernel**2, mask_size**2)
        nn.init.normal_(self.fc.weight, std=0.01)
        nn.init.zeros_(self.fc.bias)

    def forward(
        self, maps: Sequence[torch.Tensor], boxes: torch.Tensor, image: torch.Tensor, level: torch.Tensor
    ) -> torch.Tensor:
        """Return mask logits (D, M, M) of (D, 4) boxes in pixels, each on its image (D,) and level (D,)."""
        weight = self.fc.weight.unflatten(1, (self.kernel, self.kernel, self.in_channels)).permute(0, 3, 1, 2)
        logits = roi_pred(maps, weight, self.fc.bias, boxes, image, level, strides=self.strides)  # (D, M^2)
        return logits.unflatten(1, (self.mask_size, self.mask_size))


@META_ARCH_REGISTRY.register()
class SmalMask2(OneStageDetector):
    """FCOS with a SmalHead on its box tower.

    In training the head learns from ground-truth boxes, once with each of several canonical lengths (multi-scale
    poolers); in inference it runs on the detections with the largest.
    """

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        proposal_generator: FCOS,
        pixel_mean: list[float],
        pixel_std: list[float],
        input_format: str = "BGR",
        mask_head: SmalHead,
        pooler_lengths: Sequence[float],
        mask_loss_weight: float = 1.0,
    ):
        """
        Args:
            backbone, proposal_generator, pixel_mean, pixel_std, input_format: see :class:`OneStageDetector`.
            pooler_lengths: canonical lengths L of the poolers, in pixels.
            mask_loss_weight: weight of the mask loss.
        """
        super().__init__(
            backbone=backbone,
            proposal_generator=proposal_generator,
            pixel_mean=pixel_mean,
            pixel_std=pixel_std,
            input_format=input_format,
        )
        if not pooler_lengths:
            raise ValueError("MODEL.SMALMASK.POOLER_LENGTHS must have at least one canonical length; got none")
        self.mask_head = mask_head
        ends = [canonical_sizes(length, len(self.proposal_generator.strides)) for length in pooler_lengths]
        # (poolers, levels - 1). Not persistent: it follows from the config.
        self.register_buffer("pooler_ends", torch.tensor(ends, dtype=torch.float32), persistent=False)
        self.largest = max(range(len(ends)), key=lambda i: pooler_lengths[i])
        self.mask_loss_weight = mask_loss_weight

    @classmethod
    def from_config(cls, cfg) -> dict[str, Any]:
        cfg = with_canonical_length(cfg)
        options = cfg.MODEL.SMALMASK
        detector = super().from_config(cfg)
        fcos = detector["proposal_generator"]
        return {
            **detector,
            "mask_head": SmalHead(
                in_channels=fcos.fcos_head.bbox_pred.in_channels,
                mask_size=options.MASK_SIZE,
                kernel=options.KERNEL,
                strides=fcos.strides,
            ),
            "pooler_lengths": options.POOLER_LENGTHS,
            "mask_loss_weight": options.LOSS_WEIGHT,
        }

    def branch_losses(
        self,
        features: dict[str, torch.Tensor],
        output: HeadOutput,
        positives: Positives,
        gt_instances: list[Instances],
        batched_inputs: list[dict],
    ) -> dict[str, torch.Tensor]:
        boxes, image = gather_boxes(gt_instances, positives.location.device)
        times = len(self.pooler_ends)
        level = torch.cat([level_by_longer_side(boxes, ends) for ends in self.pooler_ends])  # (times G,)
        logits = self.mask_head(output.box_tower, boxes.repeat(times, 1), image.repeat(times), level).float()
        targets = crop_objects(gt_instances, self.mask_head.mask_size, logits).repeat(times, 1, 1)
        loss = F.binary_cross_entropy_with_logits(logits, targets, reduction="none").mean(dim=(1, 2))
        # The mean over regions, of all poolers and processes; without any it is zero and reaches every parameter.
        count = reduce_mean(loss.new_tensor(float(loss.shape[0]))).clamp(min=1)
        return {"loss_mask": loss.sum() / count * self.mask_loss_weight}

    def branch_fields(
        self, features: dict[str, torch.Tensor], output: HeadOutput, detections: Detections
    ) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        boxes = detections.boxes.flatten(0, 1)  # (N D, 4)
        level = level_by_longer_side(boxes, self.pooler_ends[self.largest])
        logits = self.mask_head(output.box_tower, boxes, detections.image.flatten(), level)  # (N D, M, M)
        return {"pred_masks": self.mask_field(logits, detections)}, {}

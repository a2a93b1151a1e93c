"""BlendMask (thesis chapter 4): FCOS, bases from a bottom module, attentions from a top layer, and the blender.

N images, C channels, K bases, G objects of a batch, D detections an image, P positive locations of a batch, M and R the
sides of attentions and masks.
"""

from typing import Any

import torch
from torch import nn

from ...d2.config import configurable
from ...d2.layers import ShapeSpec
from ...d2.modeling import META_ARCH_REGISTRY, Backbone, SemSegFPNHead, build_sem_seg_head
from ...d2.structures import ImageList, Instances
from ...layers.resized_cross_entropy import resized_cross_entropy
from ...layers.sparse_conv import conv_at
from ..checks import check_features
from ..fcos.fcos import FCOS
from ..fcos.head import HeadOutput
from ..fcos.inference import Detections
from ..fcos.losses import Positives
from ..one_stage import OneStageDetector
from ..panoptic import PanopticMerger, semantic_scores
from .bases import BasisModule, build_basis_module
from .blender import Blender
from .mask_targets import gather_boxes, located_mask_loss, stuff_labels

__all__ = ["BlendMask"]


@META_ARCH_REGISTRY.register()
class BlendMask(OneStageDetector):
    """FCOS with blended masks; with a semantic head also panoptic (section 4.4.4).

    The top layer is evaluated where it is read: at positive locations in training, at detections in inference.
    """

    explained_by = "blender"

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        proposal_generator: FCOS,
        pixel_mean: list[float],
        pixel_std: list[float],
        input_format: str = "BGR",
        basis_module: BasisModule,
        blender: Blender,
        in_channels: int,
        mask_loss_weight: float = 1.0,
        visualize: bool = False,
        semantic_head: nn.Module | None = None,
        merger: PanopticMerger | None = None,
    ):
        """
        Args:
            backbone, proposal_generator, pixel_mean, pixel_std, input_format: see :class:`OneStageDetector`.
            basis_module: predicts the bases (N, K, H / s, W / s).
            blender: merges them by attentions.
            in_channels: channels of the box tower, which the top layer reads.
            semantic_head, merger: for panoptic segmentation, or None. The head is Detectron2's SemSegFPNHead or works
                like it: ``layers(features)`` gives logits (N, C, H / s, W / s) with s its ``common_stride``,
                ``losses(logits, labels)`` a dict, and ``ignore_value`` is the label of pixels that do not count.
            visualize: hand out ``bases`` and, with the auxiliary loss on, ``sem_thing_seg`` beside the instances (both
                in the frame of the padded batch, at their own strides; the latter logits), and ``top_feat``, the
                attentions, in them.
            mask_loss_weight: weight of the mask loss.
        """
        super().__init__(
            backbone=backbone,
            proposal_generator=proposal_generator,
            pixel_mean=pixel_mean,
            pixel_std=pixel_std,
            input_format=input_format,
        )
        if (semantic_head is None) != (merger is None):
            raise ValueError(
                "semantic_head and merger must come together, both for panoptic segmentation or neither; got one"
            )
        self.panoptic_module = semantic_head  # AdelaiDet's name for it
        self.merger = merger
        self.basis_module = basis_module
        self.blender = blender
        self.mask_loss_weight = mask_loss_weight
        self.visualize = visualize
        self.top_layer = None
        if blender.embedding_length:
            self.top_layer = nn.Conv2d(in_channels, blender.embedding_length, 3, padding=1)
            nn.init.normal_(self.top_layer.weight, std=0.01)
            nn.init.zeros_(self.top_layer.bias)
        self.to(memory_format=torch.channels_last)

    @classmethod
    def from_config(cls, cfg) -> dict[str, Any]:
        detector = super().from_config(cfg)
        return {
            **detector,
            "basis_module": build_basis_module(cfg, detector["backbone"].output_shape()),
            "blender": Blender.from_config(cfg),
            "in_channels": detector["proposal_generator"].fcos_head.bbox_pred.in_channels,
            "mask_loss_weight": cfg.MODEL.BLENDMASK.INSTANCE_LOSS_WEIGHT,
            "visualize": cfg.MODEL.BLENDMASK.VISUALIZE,
            **cls._panoptic_from_config(cfg, detector["backbone"].output_shape()),
        }

    @staticmethod
    def _panoptic_from_config(cfg, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        if not cfg.MODEL.PANOPTIC_FPN.COMBINE.ENABLED:
            return {}
        check_features(
            "MODEL.SEM_SEG_HEAD.IN_FEATURES",
            cfg.MODEL.SEM_SEG_HEAD.IN_FEATURES,
            input_shape,
            ". Start from BlendMask/Panoptic/Base-Panoptic.yaml, or set MODEL.PANOPTIC_FPN.COMBINE.ENABLED False",
        )
        coarsest = max(input_shape[name].stride for name in cfg.MODEL.SEM_SEG_HEAD.IN_FEATURES)
        if cfg.MODEL.BACKBONE.SIZE_DIVISIBILITY % coarsest:
            raise ValueError(
                f"MODEL.BACKBONE.SIZE_DIVISIBILITY must be 0 or a multiple of {coarsest}, the stride that the semantic "
                f"head upsamples from; got {cfg.MODEL.BACKBONE.SIZE_DIVISIBILITY}"
            )
        return {"semantic_head": build_sem_seg_head(cfg, input_shape), "merger": PanopticMerger.from_config(cfg)}

    def attentions(self, output: HeadOutput, image: torch.Tensor, location: torch.Tensor) -> torch.Tensor | None:
        """Return attention logits at chosen locations, (P, K M^2); None where they are fixed."""
        if self.top_layer is None:
            return None
        return conv_at(self.top_layer, output.box_tower, image, location)

    def branch_losses(
        self,
        features: dict[str, torch.Tensor],
        output: HeadOutput,
        positives: Positives,
        gt_instances: list[Instances],
        batched_inputs: list[dict],
    ) -> dict[str, torch.Tensor]:
        bases = self.basis_module(features)
        losses = self.basis_module.semantic_loss(features, batched_inputs, self.backbone.size_divisibility)
        mask_loss = self._mask_loss(bases, output, positives, gt_instances)
        losses["loss_mask"] = mask_loss * self.mask_loss_weight
        if self.panoptic_module is not None:
            losses.update(self._semantic_losses(features, batched_inputs))
        return losses

    def _mask_loss(
        self, bases: torch.Tensor, output: HeadOutput, positives: Positives, gt_instances: list[Instances]
    ) -> torch.Tensor:
        attentions = self.attentions(output, positives.image, positives.location)
        boxes, image = gather_boxes(gt_instances, bases.device)  # (G, 4), (G,)
        logits = self.blender(bases, attentions, boxes, image, positives.objects).float()  # (P, R, R)
        loss = located_mask_loss(logits, gt_instances, positives)
        # Keep every parameter in the graph: distributed training waits for all gradients.
        return loss if logits.shape[0] else loss + bases.sum() * 0

    def _semantic_losses(
        self, features: dict[str, torch.Tensor], batched_inputs: list[dict]
    ) -> dict[str, torch.Tensor]:
        head = self.panoptic_module
        logits = head.layers(features)
        labels = stuff_labels(batched_inputs, self.device, logits.shape[1], head.ignore_value)
        labels = ImageList.from_tensors(labels, self.backbone.size_divisibility, head.ignore_value).tensor
        if type(head).losses is SemSegFPNHead.losses:  # the same numbers, without logits of the labels' size
            loss = resized_cross_entropy(logits, labels, ignored=head.ignore_value)
            return {"loss_sem_seg": loss * head.loss_weight}
        # A mean over labeled pixels is NaN if there are none.
        void = (labels == head.ignore_value).all()
        losses = head.losses(logits, labels.masked_fill(void, 0))
        return {name: loss * ~void for name, loss in losses.items()}

    def branch_fields(
        self, features: dict[str, torch.Tensor], output: HeadOutput, detections: Detections
    ) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        bases = self.basis_module(features)
        image = detections.image.flatten()  # (N D,)
        attentions = self.attentions(output, image, detections.index.flatten())
        logits = self.blender(bases, attentions, detections.boxes.flatten(0, 1), image)
        fields = {"pred_masks": self.mask_field(logits, detections)}
        extras = {}
        if self.panoptic_module is not None:
            extras["sem_seg"] = self.panoptic_module.layers(features)
        if self.visualize:
            extras["bases"] = bases
            if attentions is not None:
                fields[self.blender.field] = attentions.unflatten(0, detections.valid.shape)
            if self.basis_module.loss_on:
                extras["sem_thing_seg"] = self.basis_module.semantic_logits(features)
        return fields, extras

    def complete(self, result: dict[str, Any], image_size: tuple[int, int]) -> None:
        """With a semantic head, add ``sem_seg``, logits (C, H, W), and ``panoptic_seg``, at the size asked for."""
        if self.merger is None:
            return
        stride, size = self.panoptic_module.common_stride, result["instances"].image_size
        result["sem_seg"] = semantic_scores(result["sem_seg"].float(), stride, image_size, *size)
        result["panoptic_seg"] = self.merger(result["instances"], result["sem_seg"].argmax(dim=0))

"""DR1Mask (thesis chapter 5): instance and panoptic segmentation from one feature map.

N images, D detections per image, P positive locations of a batch, G objects of a batch, R the side of masks.
"""

from typing import Any

import torch

from ...d2.config import configurable
from ...d2.modeling import META_ARCH_REGISTRY, Backbone
from ...d2.structures import Instances
from ..fcos.fcos import FCOS
from ..fcos.head import HeadOutput
from ..fcos.inference import Detections
from ..fcos.losses import Positives
from ..one_stage import OneStageDetector
from .bases import build_basis_module
from .dr1basis import DR1Basis
from .dr1prediction import build_prediction
from .instance_prediction import InstancePrediction
from .mask_targets import located_mask_loss, stuff_labels
from .top_layer import TopLayer
from .unified_inference import UnifiedMerger
from .unified_panoptic import UnifiedPanoptic

__all__ = ["DR1Mask"]


@META_ARCH_REGISTRY.register()
class DR1Mask(OneStageDetector):
    """FCOS with contexts for DR1Basis and embeddings for instances; with a unified panoptic layer also panoptic."""

    explained_by = "prediction"

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        proposal_generator: FCOS,
        pixel_mean: list[float],
        pixel_std: list[float],
        input_format: str = "BGR",
        basis_module: DR1Basis,
        top_layer: TopLayer,
        prediction: InstancePrediction,
        panoptic: UnifiedPanoptic | None = None,
        merger: UnifiedMerger | None = None,
        mask_loss_weight: float = 1.0,
        visualize: bool = False,
    ):
        """
        Args:
            backbone, proposal_generator, pixel_mean, pixel_std, input_format: see :class:`OneStageDetector`.
            basis_module: predicts the bases F.
            top_layer: predicts contexts and embeddings; the bias of the latter is set to what they start around.
            prediction: makes masks of embeddings and bases.
            panoptic, merger: for panoptic segmentation, or None.
            visualize: hand out ``bases``, in the frame of the padded batch at their stride, beside the instances, and
                ``embeddings`` in them.
            mask_loss_weight: weight of the mask loss.
        """
        super().__init__(
            backbone=backbone,
            proposal_generator=proposal_generator,
            pixel_mean=pixel_mean,
            pixel_std=pixel_std,
            input_format=input_format,
        )
        if (panoptic is None) != (merger is None):
            raise ValueError(
                "panoptic and merger must come together, both for panoptic segmentation or neither; got one"
            )
        self.basis_module = basis_module
        self.top_layer = top_layer
        self.prediction = prediction
        self.panoptic = panoptic
        self.merger = merger
        self.mask_loss_weight = mask_loss_weight
        self.visualize = visualize
        with torch.no_grad():
            self.top_layer.embedding_layer.bias.copy_(prediction.initial_embedding())
        self.to(memory_format=torch.channels_last)

    @classmethod
    def from_config(cls, cfg) -> dict[str, Any]:
        detector = super().from_config(cfg)
        dr1, fcos = cfg.MODEL.DR1MASK, detector["proposal_generator"]
        basis_module = build_basis_module(cfg, detector["backbone"].output_shape())
        if not isinstance(basis_module, DR1Basis):
            raise ValueError(f"MODEL.BASIS_MODULE.NAME must be DR1Basis; got {cfg.MODEL.BASIS_MODULE.NAME!r}")
        common = {"width": basis_module.width, "stride": basis_module.stride}
        prediction = build_prediction(cfg, **common)
        panoptic = cfg.MODEL.PANOPTIC_FPN.COMBINE.ENABLED
        return {
            **detector,
            "basis_module": basis_module,
            "prediction": prediction,
            "top_layer": TopLayer(
                in_channels=fcos.fcos_head.bbox_pred.in_channels,
                in_features=fcos.in_features,
                width=basis_module.width,
                embedding_length=prediction.embedding_length,
                context=dr1.CONTEXT,
                embedding=dr1.EMBEDDING,
                use_a=dr1.USE_A,
                use_b=dr1.USE_B,
            ),
            "panoptic": UnifiedPanoptic.from_config(cfg, **common) if panoptic else None,
            "merger": UnifiedMerger.from_config(cfg) if panoptic else None,
            "mask_loss_weight": cfg.MODEL.BLENDMASK.INSTANCE_LOSS_WEIGHT,
            "visualize": cfg.MODEL.BLENDMASK.VISUALIZE,
        }

    def bases(self, features: dict[str, torch.Tensor], output: HeadOutput) -> torch.Tensor:
        """Return F of section 5.4.2 for the padded images; see :meth:`DR1Basis.forward`."""
        return self.basis_module(features, self.top_layer.contexts(features, output))

    def branch_losses(
        self,
        features: dict[str, torch.Tensor],
        output: HeadOutput,
        positives: Positives,
        gt_instances: list[Instances],
        batched_inputs: list[dict],
    ) -> dict[str, torch.Tensor]:
        bases = self.bases(features, output)
        embeddings = self.top_layer.embeddings(features, output, positives.image, positives.location)
        losses = self.basis_module.semantic_loss(features, batched_inputs, self.backbone.size_divisibility)
        mask_loss = self._mask_loss(bases, embeddings, positives, gt_instances)
        losses["loss_mask"] = mask_loss * self.mask_loss_weight
        if self.panoptic is not None:
            labels = stuff_labels(batched_inputs, self.device, self.panoptic.num_stuff + 1, self.panoptic.ignore_value)
            losses.update(
                self.panoptic.loss(self.prediction, bases, embeddings, positives.objects, gt_instances, labels)
            )
        return losses

    def _mask_loss(
        self, bases: torch.Tensor, embeddings: torch.Tensor, positives: Positives, gt_instances: list[Instances]
    ) -> torch.Tensor:
        boxes = torch.cat([x.gt_boxes.tensor for x in gt_instances])[positives.objects]  # (P, 4)
        logits = self.prediction(bases, embeddings, boxes, positives.image).float()  # (P, R, R)
        loss = located_mask_loss(logits, gt_instances, positives)
        if logits.shape[0]:
            return loss
        # Keep every parameter in the graph: distributed training waits for all gradients.
        rest = [p.sum() for p in self.prediction.parameters()]
        return loss + embeddings.sum() * 0 + bases.sum() * 0 + sum(rest) * 0

    def branch_fields(
        self, features: dict[str, torch.Tensor], output: HeadOutput, detections: Detections
    ) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        bases = self.bases(features, output)
        image = detections.image.flatten()  # (N D,)
        embeddings = self.top_layer.embeddings(features, output, image, detections.index.flatten())
        logits = self.prediction(bases, embeddings, detections.boxes.flatten(0, 1), image)
        fields = {"pred_masks": self.mask_field(logits, detections)}
        if self.panoptic is None and not self.visualize:
            return fields, {}
        fields["embeddings"] = embeddings.unflatten(0, detections.valid.shape)
        return fields, {"bases": bases}

    def complete(self, result: dict[str, Any], image_size: tuple[int, int]) -> None:
        """With a panoptic layer, add ``sem_seg`` and ``panoptic_seg``; see :class:`UnifiedMerger`."""
        if self.merger is None:
            return
        found = result["instances"]
        result["sem_seg"], result["panoptic_seg"] = self.merger(
            self.panoptic, self.prediction, result["bases"], found.embeddings, found, image_size
        )
        if not self.visualize:
            del result["bases"]
            found.remove("embeddings")

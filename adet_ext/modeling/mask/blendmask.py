"""BlendMask (thesis chapter 4): FCOS, bases from a bottom module, attentions from a top layer, and the blender.

N images, K bases, D detections an image, P positive locations of a batch, M and R the sides of attentions and masks.
"""

from typing import Any

import torch
from torch import nn

from ...d2.config import configurable
from ...d2.layers import ShapeSpec
from ...d2.modeling import META_ARCH_REGISTRY, build_sem_seg_head
from ...d2.structures import ImageList, Instances
from ...layers.blend import assemble, assemble_masks, blend, blend_masks, crop_bases, fuses
from ...layers.sparse_conv import conv_at
from ..fcos.head import HeadOutput
from ..fcos.inference import Detections
from ..fcos.losses import Positives
from ..one_stage import OneStageDetector
from ..panoptic import PanopticMerger, semantic_scores
from .bases import BasisModule, build_basis_module
from .mask_targets import gather_boxes, located_mask_loss, stuff_labels, thing_labels

__all__ = ["BlendMask", "Blender"]


class Blender(nn.Module):
    """Crops bases by boxes and merges each crop into a mask (section 4.3.2). It has no parameters."""

    def __init__(
        self,
        *,
        num_bases: int,
        attention_size: int,
        mask_size: int,
        scale: float,
        sampling_ratio: int = 1,
        pooler_type: str = "ROIAlignV2",
        top_interp: str = "bilinear",
        merge: str = "blender",
    ):
        """
        Args:
            num_bases, attention_size, mask_size: K, M, R; a model is called R_K_M after them.
            scale: 1 / stride of the bases.
            merge: "blender", or "assembler" for fixed one-hot attentions, which takes K = M^2 bases.
        """
        super().__init__()
        if merge not in ("blender", "assembler"):
            raise ValueError(f"MODEL.BLENDMASK.MERGE is {merge!r}; it can be blender or assembler")
        if merge == "assembler" and num_bases != attention_size**2:
            raise ValueError(
                f"the assembler takes one basis per cell: MODEL.BASIS_MODULE.NUM_BASES is {num_bases}, but "
                f"MODEL.BLENDMASK.ATTN_SIZE squared is {attention_size**2}"
            )
        if top_interp not in ("nearest", "bilinear"):
            raise ValueError(f"MODEL.BLENDMASK.TOP_INTERP is {top_interp!r}; it can be nearest or bilinear")
        self.num_bases = num_bases
        self.attention_size = attention_size
        self.mask_size = mask_size
        self.merge_kind = merge
        self.top_interp = top_interp
        self.crop_options = {
            "size": mask_size,
            "scale": scale,
            "sampling_ratio": sampling_ratio,
            "pooler_type": pooler_type,
        }

    @classmethod
    def from_config(cls, cfg) -> "Blender":
        options = cfg.MODEL.BLENDMASK
        if len(options.POOLER_SCALES) != 1:
            raise ValueError(
                f"MODEL.BLENDMASK.POOLER_SCALES is {options.POOLER_SCALES}; bases have one stride, so give one scale"
            )
        return cls(
            num_bases=cfg.MODEL.BASIS_MODULE.NUM_BASES,
            attention_size=options.ATTN_SIZE,
            mask_size=options.BOTTOM_RESOLUTION,
            scale=options.POOLER_SCALES[0],
            sampling_ratio=options.POOLER_SAMPLING_RATIO,
            pooler_type=options.POOLER_TYPE,
            top_interp=options.TOP_INTERP,
            merge=options.MERGE,
        )

    @property
    def attention_length(self) -> int:
        """Numbers a location predicts: K M^2, or none where the attentions are fixed."""
        return 0 if self.merge_kind == "assembler" else self.num_bases * self.attention_size**2

    def forward(
        self,
        bases: torch.Tensor,
        attentions: torch.Tensor | None,
        boxes: torch.Tensor,
        image: torch.Tensor,
        objects: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Crop and merge, in one pass where the compiled operator serves.

        Args:
            bases: (N, K, H, W).
            attentions: (D, K M^2) logits; None where they are fixed.
            boxes, image: (B, 4) and (B,).
            objects: (D,) the box of each mask; None: box d is that of mask d.

        Returns:
            (D, R, R) mask logits.
        """
        options = self.crop_options
        if not fuses("blend", bases, options["sampling_ratio"], options["pooler_type"]):
            # Every box is cropped once, however many masks have it.
            crops = self.crop(bases, boxes, image)
            return self.merge(crops if objects is None else crops[objects], attentions)
        if objects is not None:
            boxes, image = boxes[objects], image[objects]
        if attentions is None:
            return assemble_masks(bases, boxes, image, side=self.attention_size, **options)
        attentions = attentions.view(len(boxes), self.num_bases, self.attention_size, self.attention_size)
        return blend_masks(bases, attentions, boxes, image, top_interp=self.top_interp, **options)

    def crop(self, bases: torch.Tensor, boxes: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        """(N, K, H, W) bases, (D, 4) boxes, (D,) their image -> (D, K, R, R); equation 4.1."""
        return crop_bases(bases, boxes, image, **self.crop_options)

    def merge(self, crops: torch.Tensor, attentions: torch.Tensor | None) -> torch.Tensor:
        """(D, K, R, R) crops, (D, K M^2) attention logits -> (D, R, R) mask logits; equations 4.2 to 4.4."""
        if attentions is None:
            return assemble(crops, self.attention_size)
        side = self.attention_size
        attentions = attentions.view(len(crops), self.num_bases, side, side)
        return blend(crops, attentions, top_interp=self.top_interp)


@META_ARCH_REGISTRY.register()
class BlendMask(OneStageDetector):
    """FCOS with blended masks; with a semantic head also panoptic (section 4.4.4).

    The top layer is evaluated where it is read: at positive locations in training, at detections in inference.
    """

    @configurable
    def __init__(
        self,
        *,
        basis_module: BasisModule,
        blender: Blender,
        in_channels: int,
        mask_loss_weight: float = 1.0,
        visualize: bool = False,
        semantic_head: nn.Module | None = None,
        merger: PanopticMerger | None = None,
        **detector,
    ):
        """
        Args:
            in_channels: channels of the box tower, which the top layer reads.
            semantic_head, merger: for panoptic segmentation, or None. The head is Detectron2's SemSegFPNHead or works
                like it: ``layers(features)`` gives logits (N, C, H / s, W / s) with s its ``common_stride``,
                ``losses(logits, labels)`` a dict, and ``ignore_value`` is the label of pixels that do not count.
            visualize: hand out ``bases`` and, with the auxiliary loss on, ``sem_thing_seg`` beside the instances (both
                in the frame of the padded batch, at their own strides; the latter logits), and ``top_feat``, the
                attentions, in them.
            detector: see :class:`OneStageDetector`.
        """
        super().__init__(**detector)
        if (semantic_head is None) != (merger is None):
            raise ValueError("semantic_head and merger come together: both for panoptic segmentation, or neither")
        self.panoptic_module = semantic_head  # AdelaiDet's name for it
        self.merger = merger
        self.basis_module = basis_module
        self.blender = blender
        self.mask_loss_weight = mask_loss_weight
        self.visualize = visualize
        self.top_layer = None
        if blender.attention_length:
            self.top_layer = nn.Conv2d(in_channels, blender.attention_length, 3, padding=1)
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
        missing = [name for name in cfg.MODEL.SEM_SEG_HEAD.IN_FEATURES if name not in input_shape]
        if missing:
            raise ValueError(
                f"MODEL.SEM_SEG_HEAD.IN_FEATURES names {missing}, which the backbone does not give "
                f"({sorted(input_shape)}); panoptic configs start from BlendMask/Panoptic/Base-Panoptic.yaml, and "
                "without stuff MODEL.PANOPTIC_FPN.COMBINE.ENABLED is False"
            )
        coarsest = max(input_shape[name].stride for name in cfg.MODEL.SEM_SEG_HEAD.IN_FEATURES)
        if cfg.MODEL.BACKBONE.SIZE_DIVISIBILITY % coarsest:
            raise ValueError(
                f"MODEL.BACKBONE.SIZE_DIVISIBILITY is {cfg.MODEL.BACKBONE.SIZE_DIVISIBILITY}, but the semantic head "
                f"doubles levels up from stride {coarsest}; set a multiple of that, or 0"
            )
        return {"semantic_head": build_sem_seg_head(cfg, input_shape), "merger": PanopticMerger.from_config(cfg)}

    def attentions(self, output: HeadOutput, image: torch.Tensor, location: torch.Tensor) -> torch.Tensor | None:
        """Attention logits at chosen locations, (P, K M^2); None where they are fixed."""
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
        losses = {}
        if self.basis_module.loss_on:
            labels = thing_labels(batched_inputs, self.device, self.backbone.size_divisibility)
            losses = self.basis_module.semantic_loss(features, labels)
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
        return loss if len(logits) else loss + bases.sum() * 0

    def _semantic_losses(
        self, features: dict[str, torch.Tensor], batched_inputs: list[dict]
    ) -> dict[str, torch.Tensor]:
        head, labels = self.panoptic_module, stuff_labels(batched_inputs, self.device)
        labels = ImageList.from_tensors(labels, self.backbone.size_divisibility, head.ignore_value).tensor
        # The head takes the mean over pixels that count, which is no number where there are none.
        void = (labels == head.ignore_value).all()
        losses = head.losses(head.layers(features), labels.masked_fill(void, 0))
        return {name: loss * ~void for name, loss in losses.items()}

    def branch_fields(
        self, features: dict[str, torch.Tensor], output: HeadOutput, detections: Detections
    ) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        bases = self.basis_module(features)
        image = detections.image.flatten()  # (N D,)
        attentions = self.attentions(output, image, detections.index.flatten())
        logits = self.blender(bases, attentions, detections.boxes.flatten(0, 1), image)
        masks = logits.float().sigmoid()  # (N D, R, R)
        fields = {"pred_masks": masks.unflatten(0, detections.valid.shape)[:, :, None]}  # (N, D, 1, R, R)
        extras = {}
        if self.panoptic_module is not None:
            extras["sem_seg"] = self.panoptic_module.layers(features)
        if self.visualize:
            extras["bases"] = bases
            if attentions is not None:
                fields["top_feat"] = attentions.unflatten(0, detections.valid.shape)
            if self.basis_module.loss_on:
                extras["sem_thing_seg"] = self.basis_module.semantic_logits(features)
        return fields, extras

    def complete(self, result: dict[str, Any], image_size: tuple[int, int]) -> None:
        """With a semantic head also ``sem_seg``, logits (C, H, W), and ``panoptic_seg``, at the size asked for."""
        if self.merger is None:
            return
        stride, size = self.panoptic_module.common_stride, result["instances"].image_size
        result["sem_seg"] = semantic_scores(result["sem_seg"].float(), stride, image_size, *size)
        result["panoptic_seg"] = self.merger(result["instances"], result["sem_seg"].argmax(dim=0))

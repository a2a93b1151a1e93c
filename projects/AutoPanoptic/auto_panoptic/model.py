"""The panoptic model: Mask R-CNN and a semantic branch on one searched backbone, with attention between them.

N images of H x W pixels in the batch's frame; D detections an image; K classes of things, C semantic classes.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torchvision.models.detection.image_list import ImageList as ProposalImages

from adet_ext.d2.config import CfgNode, configurable
from adet_ext.d2.modeling import META_ARCH_REGISTRY, Backbone, build_backbone
from adet_ext.d2.structures import BitMasks, Boxes, ImageList, Instances
from adet_ext.layers.resized_cross_entropy import resized_cross_entropy
from adet_ext.modeling.mask.mask_targets import stuff_labels
from adet_ext.modeling.panoptic import PanopticMerger, semantic_scores
from adet_ext.modeling.postprocess import detector_postprocess

from .architecture import PARTS, Architecture, load_architecture
from .attention import BranchAttention, change, joined_mean
from .backbone import SUPERNET
from .choices import Choices
from .merge import build_merger
from .semantic import SemanticBranch
from .space import build_space
from .two_stage import build_roi_heads, build_rpn

__all__ = ["AutoPanoptic", "AutoPanopticSupernet"]

_LOSSES = {
    "loss_objectness": "loss_rpn_cls",
    "loss_rpn_box_reg": "loss_rpn_loc",
    "loss_classifier": "loss_cls",
    "loss_box_reg": "loss_box_reg",
    "loss_mask": "loss_mask",
}


@META_ARCH_REGISTRY.register()
class AutoPanoptic(nn.Module):
    """Predicts instances, stuff and both merged, as Detectron2's panoptic models do.

    Each searched layer is a :class:`Choices`; see :meth:`searched`.
    """

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        rpn: nn.Module,
        rpn_features: Sequence[str],
        roi_heads: nn.Module,
        semantic: SemanticBranch,
        attention: BranchAttention,
        merger: PanopticMerger,
        semantic_loss_weight: float,
        instance_loss_weight: float,
        ignore_value: int,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        input_format: str = "BGR",
    ):
        """
        Args:
            backbone: with a pyramid.
            rpn, roi_heads: torchvision's, or work like them.
            rpn_features: the levels that the proposals come from, and that ``attention`` changes.
            attention: from the semantic branch to the levels.
            ignore_value: the label of pixels that do not count.
            pixel_mean, pixel_std: per channel, in the channel order and range (0 to 255) of the images.
        """
        super().__init__()
        if len(attention.levels) != len(rpn_features):
            raise ValueError(
                f"background_to_foreground must have a choice for each of {', '.join(rpn_features)}, of "
                f"MODEL.RPN.IN_FEATURES; got {len(attention.levels)}"
            )
        self.backbone, self.rpn, self.rpn_features = backbone, rpn, list(rpn_features)
        self.roi_heads, self.semantic, self.attention, self.merger = roi_heads, semantic, attention, merger
        self.semantic_loss_weight, self.instance_loss_weight = semantic_loss_weight, instance_loss_weight
        self.ignore_value, self.input_format = ignore_value, input_format
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), persistent=False)

    @classmethod
    def choices(cls, cfg: CfgNode) -> dict[str, list[Sequence[str]]]:
        """Return the candidates of every layer, by part."""
        architecture = load_architecture(cfg.MODEL.AUTO_PANOPTIC.ARCHITECTURE)
        return {part: [(name,) for name in getattr(architecture, part)] for part in PARTS}

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        choices, head = cls.choices(cfg), cfg.MODEL.SEM_SEG_HEAD
        backbone = build_backbone(cfg)
        shapes = backbone.output_shape()
        levels, channels = list(cfg.MODEL.RPN.IN_FEATURES), cfg.MODEL.FPN.OUT_CHANNELS
        for key, names in (("RPN", levels), ("SEM_SEG_HEAD", head.IN_FEATURES)):
            if missing := [name for name in names if name not in shapes]:
                raise ValueError(f"MODEL.{key}.IN_FEATURES must be of {', '.join(shapes)}; got {', '.join(missing)}")
        semantic = SemanticBranch(
            layers=choices["semantic_subnet"],
            attention=choices["foreground_to_background"],
            in_features=head.IN_FEATURES,
            read=levels[1:],
            channels=channels,
            width=head.CONVS_DIM,
            num_classes=head.NUM_CLASSES,
        )
        strides = {name: shape.stride for name, shape in shapes.items()}
        return {
            "backbone": backbone,
            "rpn": build_rpn(cfg, channels, len(levels)),
            "rpn_features": levels,
            "roi_heads": build_roi_heads(cfg, channels, strides, choices["mask_head"]),
            "semantic": semantic,
            "attention": BranchAttention(
                choices["background_to_foreground"], len(head.IN_FEATURES) * head.CONVS_DIM, channels
            ),
            "merger": build_merger(cfg),
            "semantic_loss_weight": head.LOSS_WEIGHT,
            "instance_loss_weight": cfg.MODEL.PANOPTIC_FPN.INSTANCE_LOSS_WEIGHT,
            "ignore_value": head.IGNORE_VALUE,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "input_format": cfg.INPUT.FORMAT,
        }

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    def searched(self) -> dict[str, list[Choices]]:
        """Return the searched layers of each part, in the order of an :class:`Architecture`."""
        parts = {
            "backbone": self.backbone.bottom_up.blocks,
            "mask_head": self.roi_heads.mask_head.layers,
            "semantic_subnet": self.semantic.subnet,
            "foreground_to_background": self.semantic.attention.levels,
            "background_to_foreground": self.attention.levels,
        }
        return {part: list(layers) for part, layers in parts.items()}

    def choose(self, architecture: Architecture) -> None:
        """Let the choices of an architecture compute from now on."""
        for part, layers in self.searched().items():
            for layer, name in zip(layers, getattr(architecture, part), strict=True):
                layer.choose(name)

    def preprocess_image(self, batched_inputs: list[dict]) -> ImageList:
        """Normalize and pad to one size, a multiple of the coarsest stride: (N, 3, H, W)."""
        images = [(x["image"].to(self.device) - self.pixel_mean) / self.pixel_std for x in batched_inputs]
        return ImageList.from_tensors(images, max(s.stride for s in self.backbone.output_shape().values()))

    def forward(self, batched_inputs: list[dict]) -> dict[str, torch.Tensor] | list[dict]:
        """Run as Detectron2's models do.

        Args:
            batched_inputs: one dict per image: ``image`` (3, h, w), uint8 or float, not normalized; for evaluation
                optionally ``height`` and ``width``, the size of the results; for training ``instances`` with
                ``gt_boxes``, ``gt_classes`` and ``gt_masks``, and ``sem_seg`` (h, w).

        Returns:
            the losses in training, else one dict per image with ``instances``, ``sem_seg`` and ``panoptic_seg``.
        """
        images = self.preprocess_image(batched_inputs)
        sizes = [tuple(size) for size in images.image_sizes]
        features = self.backbone(images.tensor)
        levels = self.semantic.levels(features)
        logits = self.semantic.logits(levels, features)
        attention = self.attention(joined_mean(levels, tuple(levels[0].shape[-2:])))
        changed = {name: change(features[name], a) for name, a in zip(self.rpn_features, attention)}
        targets = self._targets(batched_inputs) if self.training else None
        proposals, losses = self.rpn(ProposalImages(images.tensor, sizes), changed, targets)
        found, head_losses = self.roi_heads(changed, proposals, sizes, targets)
        if not self.training:
            return [self._result(*one) for one in zip(found, logits, batched_inputs, sizes)]
        losses = {_LOSSES[name]: loss * self.instance_loss_weight for name, loss in {**losses, **head_losses}.items()}
        labels = stuff_labels(batched_inputs, self.device, logits.shape[1], self.ignore_value)
        labels = ImageList.from_tensors(labels, 1, self.ignore_value).tensor
        height, width = images.tensor.shape[-2:]
        labels = nn.functional.pad(
            labels, (0, width - labels.shape[-1], 0, height - labels.shape[-2]), value=self.ignore_value
        )
        loss = resized_cross_entropy(logits, labels, ignored=self.ignore_value)
        losses["loss_sem_seg"] = loss * self.semantic_loss_weight
        return losses

    def _targets(self, batched_inputs: list[dict]) -> list[dict[str, torch.Tensor]]:
        """Return the ground truth as torchvision's parts take it, class 0 being the background."""
        targets = []
        for x in batched_inputs:
            if "instances" not in x:
                raise ValueError(
                    "an input must have ground truth ('instances') in training; got "
                    f"{x.get('file_name', 'one')} without. Call model.eval() for predictions"
                )
            truth = x["instances"].to(self.device)
            masks = truth.gt_masks
            if not isinstance(masks, BitMasks):
                masks = BitMasks.from_polygon_masks(masks, *truth.image_size).to(self.device)
            targets.append(
                {
                    "boxes": truth.gt_boxes.tensor.float(),
                    "labels": truth.gt_classes + 1,
                    "masks": masks.tensor.to(torch.uint8),
                }
            )
        return targets

    def _result(
        self, found: dict[str, torch.Tensor], logits: torch.Tensor, x: dict, size: tuple[int, int]
    ) -> dict[str, Any]:
        """Bring one image's predictions to the size asked for and merge them.

        Args:
            found: ``boxes`` (D, 4), ``labels`` (D,) from 1, ``scores`` (D,) and ``masks`` (D, 1, M, M), probabilities.
            logits: (C, h, w).
            size: (height, width) of the image without padding, in the network's frame.
        """
        instances = Instances(size)
        instances.pred_boxes, instances.scores = Boxes(found["boxes"]), found["scores"]
        instances.pred_classes, instances.pred_masks = found["labels"] - 1, found["masks"]
        height, width = x.get("height", size[0]), x.get("width", size[1])
        instances = detector_postprocess(instances, height, width)
        stride = self.backbone.output_shape()[self.semantic.in_features[0]].stride
        scores = semantic_scores(logits.float(), stride, size, height, width)
        panoptic = self.merger(instances, scores.argmax(dim=0))
        return {"instances": instances, "sem_seg": scores, "panoptic_seg": panoptic}


@META_ARCH_REGISTRY.register()
class AutoPanopticSupernet(AutoPanoptic):
    """All architectures of the space at once; :meth:`choose` says which one computes."""

    @classmethod
    def choices(cls, cfg: CfgNode) -> dict[str, list[Sequence[str]]]:
        if cfg.MODEL.AUTO_PANOPTIC.ARCHITECTURE != SUPERNET:
            raise ValueError(
                f"MODEL.AUTO_PANOPTIC.ARCHITECTURE must be {SUPERNET} with AutoPanopticSupernet; got "
                f"{cfg.MODEL.AUTO_PANOPTIC.ARCHITECTURE!r}"
            )
        sizes = build_space(cfg).sizes
        return {part: [choices] * sizes[part] for part, choices in PARTS.items()}

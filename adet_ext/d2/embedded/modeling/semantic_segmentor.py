"""Semantic segmentation: a backbone and a semantic head."""

import torch
from torch import nn

from ..config import CfgNode, configurable
from ..structures import ImageList
from .build import META_ARCH_REGISTRY, Backbone, build_backbone, build_sem_seg_head
from .postprocess import sem_seg_postprocess


@META_ARCH_REGISTRY.register()
class SemanticSegmentor(nn.Module):
    """Normalizes and pads images, and hands the backbone's features to the head."""

    @configurable
    def __init__(self, *, backbone: Backbone, sem_seg_head: nn.Module, pixel_mean: list[float], pixel_std: list[float]):
        """
        Args:
            sem_seg_head: ``head(features, labels)`` gives (None, losses) in training, else (logits (N, C, H, W), {}).
            pixel_mean, pixel_std: per channel, in the channel order and range of the images.
        """
        super().__init__()
        self.backbone = backbone
        self.sem_seg_head = sem_seg_head
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), False)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        backbone = build_backbone(cfg)
        return {
            "backbone": backbone,
            "sem_seg_head": build_sem_seg_head(cfg, backbone.output_shape()),
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
        }

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    def forward(self, batched_inputs: list[dict]) -> dict[str, torch.Tensor] | list[dict]:
        """Return the losses in training, else ``{"sem_seg": logits (C, height, width)}`` for every image.

        Args:
            batched_inputs: ``image`` (3, h, w) each; ``sem_seg`` (h, w) in training; for evaluation optionally
                ``height`` and ``width``, the size of the results.
        """
        images = [(x["image"].to(self.device) - self.pixel_mean) / self.pixel_std for x in batched_inputs]
        images = ImageList.from_tensors(images, self.backbone.size_divisibility)
        features = self.backbone(images.tensor)
        targets = None
        if "sem_seg" in batched_inputs[0]:
            targets = [x["sem_seg"].to(self.device) for x in batched_inputs]
            ignored = self.sem_seg_head.ignore_value
            targets = ImageList.from_tensors(targets, self.backbone.size_divisibility, ignored).tensor
        results, losses = self.sem_seg_head(features, targets)
        if self.training:
            return losses
        return [
            {"sem_seg": sem_seg_postprocess(result, size, x.get("height", size[0]), x.get("width", size[1]))}
            for result, x, size in zip(results, batched_inputs, images.image_sizes)
        ]

"""The base of all models: backbone with FPN, FCOS, and what a family adds.

N images of H x W pixels in the batch's frame (all padded to one size).
"""

from typing import Any, NamedTuple

import torch
from torch import nn

from ..d2.config import configurable
from ..d2.modeling import (
    META_ARCH_REGISTRY,
    Backbone,
    build_backbone,
    build_proposal_generator,
)
from ..d2.structures import ImageList, Instances
from .fcos import FCOS
from .fcos.head import HeadOutput
from .fcos.inference import Detections
from .fcos.losses import Positives
from .fcos.targets import Locations
from .postprocess import detector_postprocess

__all__ = ["OneStageDetector", "Prediction"]


class Prediction(NamedTuple):
    """What a model predicts for a batch, in tensors whose sizes do not depend on their values."""

    detections: Detections
    locations: Locations
    fields: dict[str, torch.Tensor]  # of the instances, (N, D, ...) each
    extras: dict[str, torch.Tensor]  # of the images, (N, ...) each


@META_ARCH_REGISTRY.register()
class OneStageDetector(nn.Module):
    """FCOS, and the base of the segmenters.

    A family overrides :meth:`branch_losses` (more losses in training), :meth:`branch_fields` (more fields for given
    detections in inference) and :meth:`complete` (what follows from one image's results), and nothing else.
    """

    # The attribute that holds the InstancePrediction whose maps explain a mask; None where there are no maps. Such a
    # model has a switch ``visualize`` to hand out ``bases`` with the results and the embeddings with the instances.
    explained_by: str | None = None

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        proposal_generator: FCOS,
        pixel_mean: list[float],
        pixel_std: list[float],
        input_format: str = "BGR",
    ):
        """
        Args:
            pixel_mean, pixel_std: per channel, in the channel order and range (0 to 255) of the images.
            input_format: channel order of the images, for drawing.
        """
        super().__init__()
        self.backbone = backbone
        self.proposal_generator = proposal_generator
        self.input_format = input_format
        # Not persistent: published checkpoints do not have them.
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), persistent=False)
        self.to(memory_format=torch.channels_last)

    @classmethod
    def from_config(cls, cfg) -> dict[str, Any]:
        backbone = build_backbone(cfg)
        return {
            "backbone": backbone,
            "proposal_generator": build_proposal_generator(cfg, backbone.output_shape()),
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "input_format": cfg.INPUT.FORMAT,
        }

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    def forward(self, batched_inputs: list[dict]) -> dict[str, torch.Tensor] | list[dict]:
        """Run as Detectron2's models do.

        Args:
            batched_inputs: one dict per image: ``image`` (3, h, w), uint8 or float, not normalized; for evaluation
                optionally ``height`` and ``width``, the size of the results; for training ``instances`` with
                ``gt_boxes``, ``gt_classes`` and what the family needs. In evaluation, ground truth is ignored.

        Returns:
            the losses in training, else one dict per image with ``instances``.
        """
        images = self.preprocess_image(batched_inputs)
        if self.training:
            return self._losses(images.tensor, batched_inputs)
        found = self.predict_tensors(images.tensor)
        instances = found.detections.to_instances(images.image_sizes, found.locations, **found.fields)
        return self.postprocess(instances, found.extras, batched_inputs, images.image_sizes)

    def predict_tensors(self, images: torch.Tensor) -> Prediction:
        """Predict on preprocessed images (N, 3, H, W) without waiting for the device.

        This is all of inference that can be compiled, exported or captured. :meth:`forward` goes on from here to lists
        of instances and full-size masks.
        """
        features = self.backbone(images)
        output, locations = self.proposal_generator.head_output(features)
        detections = self.proposal_generator.detect(output, locations)
        return Prediction(detections, locations, *self.branch_fields(features, output, detections))

    def _losses(self, images: torch.Tensor, batched_inputs: list[dict]) -> dict[str, torch.Tensor]:
        gt_instances = self._ground_truth(batched_inputs)
        features = self.backbone(images)
        output, locations = self.proposal_generator.head_output(features)
        losses, positives = self.proposal_generator.losses(output, locations, gt_instances)
        losses.update(self.branch_losses(features, output, positives, gt_instances, batched_inputs))
        return losses

    def preprocess_image(self, batched_inputs: list[dict]) -> ImageList:
        """Normalize and pad to one size that the backbone can divide: (N, 3, H, W).

        The batch is channels-last, and so are the layers' outputs: this makes convolutions several times faster on CPUs
        and with half precision on GPUs.
        """
        images = [(x["image"].to(self.device) - self.pixel_mean) / self.pixel_std for x in batched_inputs]
        images = ImageList.from_tensors(images, self.backbone.size_divisibility)
        images.tensor = images.tensor.contiguous(memory_format=torch.channels_last)
        return images

    def _ground_truth(self, batched_inputs: list[dict]) -> list[Instances]:
        for x in batched_inputs:
            if "instances" not in x:
                raise ValueError(
                    "an input must have ground truth ('instances') in training; got "
                    f"{x.get('file_name', 'one')} without. Call model.eval() for predictions"
                )
        return [x["instances"].to(self.device) for x in batched_inputs]

    @staticmethod
    def mask_field(logits: torch.Tensor, detections: Detections) -> torch.Tensor:
        """Return mask logits (N D, R, R) as the field ``pred_masks`` of probabilities, (N, D, 1, R, R)."""
        return logits.float().sigmoid().unflatten(0, detections.valid.shape)[:, :, None]

    def postprocess(
        self,
        instances: list[Instances],
        extras: dict[str, torch.Tensor],
        batched_inputs: list[dict],
        image_sizes: list[tuple[int, int]],
    ) -> list[dict]:
        """Bring detections from the network's frame to the size asked for, where masks are pasted; add ``extras``, each
        (N, ...), as they are; and let the family :meth:`complete` each image's results."""
        results = []
        for i, (result, x, (height, width)) in enumerate(zip(instances, batched_inputs, image_sizes)):
            result = detector_postprocess(result, x.get("height", height), x.get("width", width))
            results.append({"instances": result, **{name: value[i] for name, value in extras.items()}})
            self.complete(results[-1], (height, width))
        return results

    def branch_losses(
        self,
        features: dict[str, torch.Tensor],
        output: HeadOutput,
        positives: Positives,
        gt_instances: list[Instances],
        batched_inputs: list[dict],
    ) -> dict[str, torch.Tensor]:
        """Return losses in addition to the detector's."""
        return {}

    def branch_fields(
        self, features: dict[str, torch.Tensor], output: HeadOutput, detections: Detections
    ) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        """Return what the family adds to given detections, without waiting for the device.

        Returns:
            fields of the instances, each (N, D, ...), and further entries of the images' results, each (N, ...).
        """
        return {}, {}

    def complete(self, result: dict[str, Any], image_size: tuple[int, int]) -> None:
        """Change one image's results, in place, once its instances have the size asked for.

        Args:
            image_size: (height, width) of the image without padding, in the network's frame.
        """

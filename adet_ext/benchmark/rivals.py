"""Models of other packages, and other ways to run ours, behind the interface of Detectron2's models.

N images, D detections of one image, H x W an image.
"""

from collections.abc import Callable

import torch
from torch import nn

from ..d2.structures import Boxes, Instances
from ..modeling.one_stage import OneStageDetector

__all__ = ["COMPILED", "MASK_RCNN", "PANOPTIC_FPN", "TORCHVISION", "TorchvisionMaskRCNN", "compiled"]

COMPILED = "compiled:"  # before the name of a config whose network torch.compile runs
# The names of rivals, in the place of a config.
MASK_RCNN = "detectron2:COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x.yaml"
PANOPTIC_FPN = "detectron2:COCO-PanopticSegmentation/panoptic_fpn_R_50_3x.yaml"
TORCHVISION = "torchvision:mask_rcnn_R_50_FPN"


class TorchvisionMaskRCNN(nn.Module):
    """torchvision's Mask R-CNN R-50-FPN, of 91 classes with the background, on images that keep their size."""

    def __init__(self):
        super().__init__()
        from torchvision.models.detection import maskrcnn_resnet50_fpn

        self.model = maskrcnn_resnet50_fpn(weights=None, weights_backbone=None, max_size=10**6)
        self.model.transform._skip_resize = True

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @property
    def shift_scores(self) -> Callable[[float], None]:
        """Return a function that adds a step to the logits of every class, against the background's, the first."""
        return lambda step: self.model.roi_heads.box_predictor.cls_score.bias.data[0].sub_(step)

    def forward(self, batched_inputs: list[dict]) -> list[dict]:
        """Predict, with masks (D, H, W) pasted and cut at one half, as evaluation does."""
        images = [x["image"].to(self.device).float() / 255 for x in batched_inputs]
        self.model.transform.min_size = (min(min(image.shape[1:]) for image in images),)  # keep their size
        results = []
        for image, found in zip(images, self.model(images)):
            instances = Instances(tuple(image.shape[1:]))
            instances.pred_boxes, instances.scores = Boxes(found["boxes"]), found["scores"]
            instances.pred_classes, instances.pred_masks = found["labels"], found["masks"][:, 0] >= 0.5
            results.append({"instances": instances})
        return results


def compiled(model: OneStageDetector) -> OneStageDetector:
    """Let torch.compile run the network; what makes lists of instances of its tensors stays as it is."""
    model.predict_tensors = torch.compile(model.predict_tensors, fullgraph=True, dynamic=False)
    return model

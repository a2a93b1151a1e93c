"""RetinaNet as a proposal generator of ``OneStageDetector``: the counterpart of Table 7.2, on either engine.

Detectron2 has a RetinaNet of its own, which the embedded engine has not. This one takes losses and inference from FCOS.

N images, K classes, A anchors per location, L anchors over all levels (level by level, row by row, the A anchors of a
location in turn), P positive anchors of the batch.
"""

import math
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from adet_ext.d2.config import configurable
from adet_ext.d2.layers import ShapeSpec
from adet_ext.d2.modeling import PROPOSAL_GENERATOR_REGISTRY
from adet_ext.d2.structures import Instances
from adet_ext.errors import UserError
from adet_ext.modeling.checks import check_features
from adet_ext.modeling.fcos.head import HeadOutput, conv_tower
from adet_ext.modeling.fcos.inference import Detections, detect
from adet_ext.modeling.fcos.losses import Positives, flatten_levels, focal_loss_sum, reduce_mean
from adet_ext.modeling.fcos.targets import Locations, all_locations

from .anchors import anchor_shapes, decode_boxes, encode_boxes, match_anchors

__all__ = ["RetinaNet", "RetinaNetHead"]


class RetinaNetHead(nn.Module):
    """Two towers of 3x3 convolutions with ReLU, without norm, shared by all levels; classes and box deltas on them."""

    def __init__(
        self,
        *,
        in_channels: int,
        num_levels: int,
        num_classes: int,
        num_anchors: int,
        num_convs: int,
        prior_prob: float,
    ):
        super().__init__()
        self.num_anchors = num_anchors
        self.cls_tower = conv_tower(in_channels, num_convs, norm="none", num_levels=num_levels)
        self.bbox_tower = conv_tower(in_channels, num_convs, norm="none", num_levels=num_levels)
        self.cls_logits = nn.Conv2d(in_channels, num_anchors * num_classes, 3, padding=1)
        self.bbox_pred = nn.Conv2d(in_channels, num_anchors * 4, 3, padding=1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.01)
                nn.init.zeros_(module.bias)
        nn.init.constant_(self.cls_logits.bias, -math.log((1 - prior_prob) / prior_prob))

    def forward(self, features: Sequence[torch.Tensor]) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Return logits (N, K, H_l, W_l A) and box deltas (N, 4, H_l, W_l A) for each level."""
        logits = [self._by_anchor(self.cls_logits(self.cls_tower(x, i))) for i, x in enumerate(features)]
        deltas = [self._by_anchor(self.bbox_pred(self.bbox_tower(x, i))) for i, x in enumerate(features)]
        return logits, deltas

    def _by_anchor(self, x: torch.Tensor) -> torch.Tensor:
        x = x.unflatten(1, (self.num_anchors, -1))  # (N, A, c, H, W)
        return x.permute(0, 2, 3, 4, 1).flatten(3)  # (N, c, H, W A)


@PROPOSAL_GENERATOR_REGISTRY.register()
class RetinaNet(nn.Module):
    """Detection by classifying and moving anchors (Lin et al. 2017)."""

    @configurable
    def __init__(
        self,
        *,
        head: RetinaNetHead,
        in_features: Sequence[str],
        strides: Sequence[int],
        num_classes: int,
        shapes: torch.Tensor,
        iou_thresholds: tuple[float, float],
        delta_weights: Sequence[float],
        smooth_l1_beta: float,
        focal_alpha: float,
        focal_gamma: float,
        limits: dict,
    ):
        """
        Args:
            in_features, strides: names of the levels, finest first, and their strides in pixels.
            shapes: (A, 2) widths and heights of the anchors, in units of the stride.
            iou_thresholds: anchors below the first are background, from the second on positive, else ignored.
            delta_weights: factors on the deltas of x, y, width and height.
            limits: keyword arguments of :func:`adet_ext.modeling.fcos.inference.detect`.
        """
        super().__init__()
        if len(in_features) != len(strides):
            raise UserError(
                f"MODEL.FCOS must have as many FPN_STRIDES as IN_FEATURES; got {list(strides)} and {list(in_features)}"
            )
        self.retinanet_head = head
        self.in_features, self.strides = list(in_features), list(strides)
        self.num_classes = num_classes
        self.register_buffer("shapes", shapes, persistent=False)
        self.iou_thresholds, self.delta_weights = tuple(iou_thresholds), tuple(delta_weights)
        self.smooth_l1_beta = smooth_l1_beta
        self.focal_alpha, self.focal_gamma = focal_alpha, focal_gamma
        self.limits = limits

    @classmethod
    def from_config(cls, cfg, input_shape: dict[str, ShapeSpec]):
        fcos, core, own = cfg.MODEL.FCOS, cfg.MODEL.RETINANET, cfg.MODEL.NAS_FCOS.RETINANET
        check_features("MODEL.FCOS.IN_FEATURES", fcos.IN_FEATURES, input_shape)
        shapes = anchor_shapes(own.ANCHOR_SCALE, own.OCTAVE_STEPS, own.ASPECT_RATIOS)
        head = RetinaNetHead(
            in_channels=input_shape[fcos.IN_FEATURES[0]].channels,
            num_levels=len(fcos.IN_FEATURES),
            num_classes=fcos.NUM_CLASSES,
            num_anchors=len(shapes),
            num_convs=core.NUM_CONVS,
            prior_prob=fcos.PRIOR_PROB,
        )
        return {
            "head": head,
            "in_features": fcos.IN_FEATURES,
            "strides": fcos.FPN_STRIDES,
            "num_classes": fcos.NUM_CLASSES,
            "shapes": shapes,
            "iou_thresholds": core.IOU_THRESHOLDS,
            "delta_weights": core.BBOX_REG_WEIGHTS,
            "smooth_l1_beta": core.SMOOTH_L1_LOSS_BETA,
            "focal_alpha": fcos.LOSS_ALPHA,
            "focal_gamma": fcos.LOSS_GAMMA,
            "limits": {
                "score_threshold": fcos.INFERENCE_TH_TEST,
                "pre_nms_topk": fcos.PRE_NMS_TOPK_TEST,
                "post_nms_topk": fcos.POST_NMS_TOPK_TEST,
                "nms_threshold": fcos.NMS_TH,
            },
        }

    def head_output(self, features: dict[str, torch.Tensor]) -> tuple[HeadOutput, Locations]:
        """Run the head; return logits and deltas (as ``distances``), and the centers of all anchors."""
        logits, deltas = self.retinanet_head([features[f] for f in self.in_features])
        count = len(self.shapes)
        sizes = [(x.shape[-2], x.shape[-1] // count) for x in logits]
        at = all_locations(sizes, self.strides, logits[0].device)
        locations = Locations(*(x.repeat_interleave(count, dim=0) for x in at))
        return HeadOutput(logits, deltas, [], []), locations

    def anchors(self, locations: Locations) -> torch.Tensor:
        """Return the anchors' centers, widths and heights in pixels: (L, 4)."""
        shapes = self.shapes.repeat(len(locations.stride) // len(self.shapes), 1)  # (L, 2)
        return torch.cat([locations.xy, shapes * locations.stride[:, None]], dim=1)

    def losses(
        self, output: HeadOutput, locations: Locations, gt_instances: Sequence[Instances]
    ) -> tuple[dict[str, torch.Tensor], Positives]:
        """Return the losses ``loss_cls`` and ``loss_box_reg``, both divided by the positives, and the positives."""
        anchors = self.anchors(locations)
        found = [match_anchors(anchors, x.gt_boxes.tensor, self.iou_thresholds) for x in gt_instances]
        matched = torch.stack(found)  # (N, L) index of the object; -1 background, -2 ignored
        logits = flatten_levels(output.logits)  # (N, L, K)
        image, location = (matched >= 0).nonzero(as_tuple=True)  # (P,)
        objects = matched[image, location]
        classes, boxes = logits.new_zeros(0, dtype=torch.int64), anchors.new_zeros(0, 4)
        if len(image):
            classes = torch.cat([x.gt_classes[m[m >= 0]] for x, m in zip(gt_instances, matched)])
            boxes = torch.cat([x.gt_boxes.tensor[m[m >= 0]] for x, m in zip(gt_instances, matched)])

        used = (matched != -2).flatten()  # (N L,)
        row = (used.cumsum(0) - 1)[image * len(anchors) + location]  # of the positives among the used
        num_fg = reduce_mean(logits.new_tensor(float(len(image)), dtype=torch.float32)).clamp(min=1)
        cls = focal_loss_sum(logits.flatten(0, 1)[used], row, classes, alpha=self.focal_alpha, gamma=self.focal_gamma)
        predicted = flatten_levels(output.distances)[image, location].float()  # (P, 4)
        target = encode_boxes(anchors[location], boxes, self.delta_weights)
        box = F.smooth_l1_loss(predicted, target, beta=self.smooth_l1_beta, reduction="sum")
        positives = Positives(image, location, objects, torch.ones_like(predicted[:, 0]), num_fg)
        return {"loss_cls": cls / num_fg, "loss_box_reg": box / num_fg}, positives

    def detect(self, output: HeadOutput, locations: Locations) -> Detections:
        """Return a fixed number of detections per image, without waiting for the device; scores are probabilities."""
        boxes = decode_boxes(self.anchors(locations), flatten_levels(output.distances).float(), self.delta_weights)
        distances = torch.cat([locations.xy - boxes[..., :2], boxes[..., 2:] - locations.xy], dim=2)
        distances = (distances / locations.stride[:, None]).transpose(1, 2)  # (N, 4, L)
        sure = [torch.full_like(x[:, :1], math.inf) for x in output.logits]  # there is no quality: it is certain
        found = detect(
            HeadOutput(output.logits, [distances], sure, []), locations, threshold_with_quality=False, **self.limits
        )
        return found._replace(scores=found.scores.square())

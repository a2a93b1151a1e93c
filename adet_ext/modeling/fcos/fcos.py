"""FCOS as a proposal generator: head, target assignment, losses and inference behind one interface."""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from ...d2.config import configurable
from ...d2.layers import ShapeSpec
from ...d2.modeling import PROPOSAL_GENERATOR_REGISTRY
from ...d2.structures import ImageList, Instances
from ..checks import check_choice, check_features
from .head import FCOSHead, HeadOutput
from .inference import Detections, detect
from .losses import Positives, box_loss, flatten_levels, focal_loss_sum, reduce_mean, smoothed_ious
from .targets import Locations, Targets, all_locations, assign_targets, centerness_targets

__all__ = ["FCOS"]


@PROPOSAL_GENERATOR_REGISTRY.register()
class FCOS(nn.Module):
    """Fully convolutional one-stage detection (Tian et al. 2019) with the later release's refinements: center
    sampling, center-ness on the box tower, GIoU, per-level scales."""

    @configurable
    def __init__(
        self,
        *,
        head: FCOSHead,
        in_features: Sequence[str],
        strides: Sequence[int],
        num_classes: int,
        sizes_of_interest: Sequence[float],
        center_sampling: bool = True,
        radius: float = 1.5,
        box_quality: str = "ctrness",
        box_loss_kind: str = "giou",
        focal_alpha: float = 0.25,
        focal_gamma: float = 2.0,
        cls_loss_weight: float = 1.0,
        cls_loss_normalizer: str = "fg",
        pixel_losses: bool = False,
        train_limits: dict,
        test_limits: dict,
    ):
        """
        Args:
            in_features: names of the levels, finest first.
            strides: of the levels, in pixels.
            sizes_of_interest: see :func:`assign_targets`; one fewer than levels.
            box_quality: "ctrness" or "iou".
            cls_loss_normalizer: "fg", "fg_and_images", "moving_fg" or "all".
            pixel_losses: smooth the IoUs by one square pixel, as the first FCOS does, not by one square of the stride.
            train_limits, test_limits: keyword arguments of :func:`detect` in either mode.

        Raises:
            ValueError: the numbers of levels, strides and sizes of interest do not match, or a choice is unknown.
        """
        super().__init__()
        if not len(in_features) == len(strides) == len(sizes_of_interest) + 1:
            raise ValueError(
                "MODEL.FCOS must have as many FPN_STRIDES as IN_FEATURES, and one of SIZES_OF_INTEREST fewer; got "
                f"{list(strides)}, {list(in_features)} and {list(sizes_of_interest)}"
            )
        check_choice("MODEL.FCOS.BOX_QUALITY", box_quality, ("ctrness", "iou"))
        check_choice("MODEL.FCOS.LOSS_NORMALIZER_CLS", cls_loss_normalizer, ("fg", "fg_and_images", "moving_fg", "all"))
        self.fcos_head = head
        self.in_features = list(in_features)
        self.strides = list(strides)
        self.num_classes = num_classes
        self.sizes_of_interest = list(sizes_of_interest)
        self.center_sampling = center_sampling
        self.radius = radius
        self.box_quality = box_quality
        self.box_loss_kind = box_loss_kind
        self.focal_alpha = focal_alpha
        self.focal_gamma = focal_gamma
        self.cls_loss_weight = cls_loss_weight
        self.cls_loss_normalizer = cls_loss_normalizer
        self.pixel_losses = pixel_losses
        self.train_limits = train_limits
        self.test_limits = test_limits
        if cls_loss_normalizer == "moving_fg":
            # Part of the state only in this mode, so that the other modes' checkpoints stay those of AdelaiDet.
            self.register_buffer("moving_num_fg", torch.tensor(100.0))

    @classmethod
    def from_config(cls, cfg, input_shape: dict[str, ShapeSpec]):
        fcos = cfg.MODEL.FCOS
        check_features("MODEL.FCOS.IN_FEATURES", fcos.IN_FEATURES, input_shape)
        channels = {input_shape[f].channels for f in fcos.IN_FEATURES}
        if len(channels) != 1:
            raise ValueError(
                f"MODEL.FCOS.IN_FEATURES must have the same channels, to share a head; got {sorted(channels)}"
            )
        check_choice("MODEL.FCOS.BOX_CODING", fcos.BOX_CODING, ("relu", "exp"))

        def limits(mode: str) -> dict:
            return {
                "score_threshold": fcos[f"INFERENCE_TH_{mode}"],
                "pre_nms_topk": fcos[f"PRE_NMS_TOPK_{mode}"],
                "post_nms_topk": fcos[f"POST_NMS_TOPK_{mode}"],
                "nms_threshold": fcos.NMS_TH,
                "threshold_with_quality": fcos.THRESH_WITH_CTR,
            }

        return {
            "head": cls.build_head(cfg, channels.pop()),
            "in_features": fcos.IN_FEATURES,
            "strides": fcos.FPN_STRIDES,
            "num_classes": fcos.NUM_CLASSES,
            "sizes_of_interest": fcos.SIZES_OF_INTEREST,
            "center_sampling": fcos.CENTER_SAMPLE,
            "radius": fcos.POS_RADIUS,
            "box_quality": fcos.BOX_QUALITY,
            "box_loss_kind": fcos.LOC_LOSS_TYPE,
            "focal_alpha": fcos.LOSS_ALPHA,
            "focal_gamma": fcos.LOSS_GAMMA,
            "cls_loss_weight": fcos.LOSS_WEIGHT_CLS,
            "cls_loss_normalizer": fcos.LOSS_NORMALIZER_CLS,
            "pixel_losses": fcos.BOX_CODING == "exp",
            "train_limits": limits("TRAIN"),
            "test_limits": limits("TEST"),
        }

    @classmethod
    def build_head(cls, cfg, channels: int) -> FCOSHead:
        """Return the head that the config describes, for levels of ``channels``; a subclass may have another one."""
        fcos = cfg.MODEL.FCOS
        return FCOSHead(
            **cls.prediction_options(cfg, channels),
            num_cls_convs=fcos.NUM_CLS_CONVS,
            num_box_convs=fcos.NUM_BOX_CONVS,
            num_share_convs=fcos.NUM_SHARE_CONVS,
            norm=fcos.NORM,
            use_deformable=fcos.USE_DEFORMABLE,
        )

    @staticmethod
    def prediction_options(cfg, channels: int) -> dict:
        """Return the arguments of :class:`FCOSHead` that are not about its towers."""
        fcos = cfg.MODEL.FCOS
        return {
            "in_channels": channels,
            "num_levels": len(fcos.IN_FEATURES),
            "num_classes": fcos.NUM_CLASSES,
            "use_scale": fcos.USE_SCALE,
            "quality_on_box_tower": fcos.CTR_ON_REG,
            "prior_prob": fcos.PRIOR_PROB,
            "exponential_strides": fcos.FPN_STRIDES if fcos.BOX_CODING == "exp" else (),
        }

    def head_output(self, features: dict[str, torch.Tensor]) -> tuple[HeadOutput, Locations]:
        """Run the head on the pyramid; return its maps and their locations."""
        output = self.fcos_head([features[f] for f in self.in_features])
        sizes = [x.shape[-2:] for x in output.logits]
        return output, all_locations(sizes, self.strides, output.logits[0].device)

    def detect(self, output: HeadOutput, locations: Locations) -> Detections:
        """Return a fixed number of detections per image, without waiting for the device."""
        return detect(output, locations, **(self.train_limits if self.training else self.test_limits))

    def targets(self, locations: Locations, gt_instances: Sequence[Instances]) -> Targets:
        """Assign every location; see :func:`assign_targets`."""
        return assign_targets(
            locations,
            gt_instances,
            num_classes=self.num_classes,
            sizes_of_interest=self.sizes_of_interest,
            center_sampling=self.center_sampling,
            radius=self.radius,
        )

    def losses(
        self, output: HeadOutput, locations: Locations, gt_instances: Sequence[Instances]
    ) -> tuple[dict[str, torch.Tensor], Positives]:
        """Return the losses ``loss_fcos_cls``, ``loss_fcos_loc`` and ``loss_fcos_ctr`` (or ``loss_fcos_iou``), and the
        positive locations for a mask branch."""
        targets = self.targets(locations, gt_instances)
        logits = flatten_levels(output.logits)  # (N, L, C)
        image, location = (targets.labels != self.num_classes).nonzero(as_tuple=True)  # (P,)
        label = targets.labels[image, location]
        stride = locations.stride[location]
        ltrb = targets.ltrb[image, location] / stride[:, None]
        centerness = centerness_targets(ltrb)

        totals = torch.stack([centerness.new_tensor(float(len(label))), centerness.sum()])
        num_fg, centerness_sum = reduce_mean(totals).unbind()
        num_fg = num_fg.clamp(min=1)
        positives = Positives(
            image, location, targets.objects[image, location], centerness, centerness_sum.clamp(min=1e-6)
        )

        cls = focal_loss_sum(
            logits, image * logits.shape[1] + location, label, alpha=self.focal_alpha, gamma=self.focal_gamma
        )
        losses = {"loss_fcos_cls": cls / self._cls_normalizer(num_fg, logits) * self.cls_loss_weight}

        predicted = flatten_levels(output.distances)[image, location].float()  # (P, 4)
        quality = flatten_levels(output.quality)[image, location, 0].float()  # (P,)
        unit = stride[:, None] if self.pixel_losses else 1
        iou, giou = smoothed_ious(predicted * unit, ltrb * unit)
        per_box = box_loss(iou, giou, self.box_loss_kind)
        if self.box_quality == "ctrness":
            losses["loss_fcos_loc"] = (per_box * centerness).sum() / positives.normalizer
            name, target = "loss_fcos_ctr", centerness
        else:
            losses["loss_fcos_loc"] = per_box.sum() / num_fg
            name, target = "loss_fcos_iou", iou.detach()
        losses[name] = F.binary_cross_entropy_with_logits(quality, target, reduction="sum") / num_fg
        return losses, positives

    def _cls_normalizer(self, num_fg: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        if self.cls_loss_normalizer == "fg":
            return num_fg
        if self.cls_loss_normalizer == "fg_and_images":
            return num_fg + logits.shape[0]
        if self.cls_loss_normalizer == "moving_fg":
            self.moving_num_fg.mul_(0.9).add_(num_fg.detach(), alpha=0.1)
            return self.moving_num_fg.clone()
        return reduce_mean(num_fg.new_tensor(float(logits.shape[0] * logits.shape[1])))

    def forward(
        self,
        images: ImageList,
        features: dict[str, torch.Tensor],
        gt_instances: Sequence[Instances] | None = None,
    ) -> tuple[list[Instances], dict[str, torch.Tensor]]:
        """Run as Detectron2's proposal generators do.

        Returns:
            detections (``pred_boxes``, ``scores``, ``pred_classes``, ``locations``, ``fpn_levels``), none in training;
            losses, none in evaluation.
        """
        output, locations = self.head_output(features)
        if self.training:
            return [], self.losses(output, locations, gt_instances)[0]
        return self.detect(output, locations).to_instances(images.image_sizes, locations), {}

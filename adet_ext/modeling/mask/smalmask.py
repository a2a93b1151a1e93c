"""SmalMask (thesis 3.3): FCOS with a dense mask predictor, evaluated only where a mask is needed.

N images, D detections per image, P positive locations of a batch, G its objects, M the side of a mask.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from ...d2.config import configurable
from ...d2.modeling import META_ARCH_REGISTRY, Backbone
from ...d2.structures import Instances
from ..checks import check_choice, check_features
from ..fcos.fcos import FCOS
from ..fcos.head import HeadOutput, Tower, conv_tower, run_tower
from ..fcos.inference import Detections
from ..fcos.losses import Positives, flatten_levels
from ..fcos.targets import all_locations
from ..one_stage import OneStageDetector
from .mask_predictors import PREDICTORS, Places
from .mask_targets import crop_masks, crop_objects, gather_boxes
from .poolers import canonical_sizes
from .teacher_forcing import TeacherForcing

__all__ = ["SmalMask", "with_canonical_length"]

# Half the side, in pixels, that a predicted box has at least where ground truth is cropped by it.
_LEAST_DISTANCE = 0.5


def with_canonical_length(cfg):
    """Return ``cfg``, or a copy whose FCOS' sizes of interest follow MODEL.SMALMASK.CANONICAL_LENGTH."""
    length = cfg.MODEL.SMALMASK.CANONICAL_LENGTH
    if length == 0:
        return cfg
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.FCOS.SIZES_OF_INTEREST = canonical_sizes(length, len(cfg.MODEL.FCOS.IN_FEATURES))
    return cfg


@META_ARCH_REGISTRY.register()
class SmalMask(OneStageDetector):
    """FCOS with masks of M x M predicted at its locations and projected onto its boxes.

    The predictor runs at positive locations in training and at detections in inference, with the results of its dense
    form. If boxes guide it and all of them are ground truth, the positives of one object on one level have the same
    prediction and target, which are computed once.
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
        mask_tower: Tower | None,
        predictor: str,
        in_channels: int,
        kernel: int,
        mask_size: int,
        mask_features: Sequence[str],
        mask_strides: Sequence[int],
        teacher_forcing: TeacherForcing,
        mask_loss_weight: float = 1.0,
    ):
        """
        Args:
            backbone, proposal_generator, pixel_mean, pixel_std, input_format: see :class:`OneStageDetector`.
            mask_tower: the separate form's own tower on the pyramid; None for the shared form, on the box tower.
            predictor: "Conv", "DefConv", "RoIConv" or "RoIPred".
            in_channels: of what the predictor reads.
            kernel, mask_size: k and M.
            mask_features: for each level of the detector, the level that its masks are predicted from.
            mask_strides: their strides, in pixels.
            teacher_forcing: whose boxes guide the predictor in training.
            mask_loss_weight: weight of the mask loss.

        Raises:
            ValueError: unknown or impossible choices, naming the key.
        """
        super().__init__(
            backbone=backbone,
            proposal_generator=proposal_generator,
            pixel_mean=pixel_mean,
            pixel_std=pixel_std,
            input_format=input_format,
        )
        self._check(predictor, mask_tower, mask_features, self.proposal_generator)
        # Each level once; a tower runs on each once, however many levels of the detector read it.
        self.mask_features = list(dict.fromkeys(mask_features))
        strides = [mask_strides[list(mask_features).index(name)] for name in self.mask_features]
        source = torch.tensor([self.mask_features.index(name) for name in mask_features])
        self.register_buffer("mask_level", source, persistent=False)  # (levels of the detector,)
        self.mask_tower = mask_tower
        self.mask_predictor = PREDICTORS[predictor](in_channels, mask_size, kernel, strides)
        self.teacher_forcing = teacher_forcing
        self.mask_loss_weight = mask_loss_weight
        self.to(memory_format=torch.channels_last)

    @staticmethod
    def _check(predictor: str, mask_tower: Tower | None, mask_features: Sequence[str], detector: FCOS) -> None:
        levels = detector.in_features
        check_choice("MODEL.SMALMASK.PREDICTOR", predictor, list(PREDICTORS))
        if len(mask_features) != len(levels):
            raise ValueError(
                f"MODEL.SMALMASK.LEVELS must have one level for each of MODEL.FCOS.IN_FEATURES {levels}; got "
                f"{list(mask_features)}"
            )
        if not PREDICTORS[predictor].guided and list(mask_features) != levels:
            raise ValueError(
                f"MODEL.SMALMASK.LEVELS must be the detector's own, {levels}, for {predictor}; got "
                f"{list(mask_features)}. Set MODEL.SMALMASK.PREDICTOR to RoIPred or RoIConv for others"
            )
        missing = [name for name in mask_features if mask_tower is None and name not in levels]
        if missing:
            raise ValueError(
                f"MODEL.SMALMASK.LEVELS must be among those of the shared box tower, {levels}; got {missing}. Set "
                "MODEL.SMALMASK.TOWER to separate"
            )

    @classmethod
    def from_config(cls, cfg) -> dict[str, Any]:
        cfg = with_canonical_length(cfg)
        options = cfg.MODEL.SMALMASK
        detector = super().from_config(cfg)
        shapes = detector["backbone"].output_shape()
        names = list(options.LEVELS) or list(cfg.MODEL.FCOS.IN_FEATURES)
        check_features("MODEL.SMALMASK.LEVELS", names, shapes)
        channels = {shapes[name].channels for name in names}
        if len(channels) != 1:
            raise ValueError(
                f"MODEL.SMALMASK.LEVELS must have the same channels, to share a predictor; got {sorted(channels)}"
            )
        in_channels = channels.pop()
        check_choice("MODEL.SMALMASK.TOWER", options.TOWER, ("separate", "shared"))
        tower = None
        if options.TOWER == "separate":
            tower = conv_tower(
                in_channels,
                options.NUM_CONVS,
                norm=options.NORM,
                num_levels=len(set(names)),
                key="MODEL.SMALMASK.NORM",
            )
            for module in tower.modules():
                if isinstance(module, nn.Conv2d):
                    nn.init.normal_(module.weight, std=0.01)
                    nn.init.zeros_(module.bias)
        return {
            **detector,
            "mask_tower": tower,
            "predictor": options.PREDICTOR,
            "in_channels": in_channels,
            "kernel": options.KERNEL,
            "mask_size": options.MASK_SIZE,
            "mask_features": names,
            "mask_strides": [shapes[name].stride for name in names],
            "teacher_forcing": TeacherForcing(
                options.TEACHER_FORCING, fix_iters=options.FIX_ITERS, random_iters=options.RANDOM_ITERS
            ),
            "mask_loss_weight": options.LOSS_WEIGHT,
        }

    def mask_maps(self, features: dict[str, torch.Tensor], output: HeadOutput) -> list[torch.Tensor]:
        """Return what the predictor reads: a (N, C, H_l, W_l) map for each of ``mask_features``."""
        if self.mask_tower is None:
            levels = self.proposal_generator.in_features
            return [output.box_tower[levels.index(name)] for name in self.mask_features]
        return run_tower(self.mask_tower, [features[name] for name in self.mask_features])

    def _locations(self, output: HeadOutput):
        sizes = [x.shape[-2:] for x in output.logits]
        return all_locations(sizes, self.proposal_generator.strides, output.logits[0].device)

    def branch_losses(
        self,
        features: dict[str, torch.Tensor],
        output: HeadOutput,
        positives: Positives,
        gt_instances: list[Instances],
        batched_inputs: list[dict],
    ) -> dict[str, torch.Tensor]:
        probability = self.teacher_forcing.current()
        make = self._by_object if probability == 1 else self._by_location
        places, targets, weight = make(output, positives, gt_instances, probability)
        logits = self.mask_predictor(self.mask_maps(features, output), places).float()
        loss = F.binary_cross_entropy_with_logits(logits, targets.to(logits), reduction="none").mean(dim=(1, 2))
        # Weighted by center-ness, as in BlendMask. Without positives it is zero and still reaches every parameter.
        return {"loss_mask": (loss * weight).sum() / positives.normalizer * self.mask_loss_weight}

    def _by_object(
        self, output: HeadOutput, positives: Positives, gt_instances: list[Instances], probability: float
    ) -> tuple[Places, torch.Tensor, torch.Tensor]:
        """Return places guided by ground truth, their targets (D, M, M) and weights (D,)."""
        boxes, _ = gather_boxes(gt_instances, positives.location.device)
        places = Places(
            image=positives.image,
            location=positives.location,
            level=self.mask_level[self._locations(output).level[positives.location]],
            boxes=boxes[positives.objects],
        )
        objects, weight = positives.objects, positives.weight
        if self.mask_predictor.guided:
            # Equal boxes on equal levels: one for all.
            count = len(self.mask_features)
            pair, inverse = torch.unique(objects * count + places.level, return_inverse=True)
            weight = weight.new_zeros(len(pair)).index_add_(0, inverse, weight)
            first = torch.empty_like(pair).scatter_(0, inverse, torch.arange(len(inverse), device=pair.device))
            places, objects = Places(*(x[first] for x in places)), objects[first]
        targets = crop_objects(gt_instances, self.mask_predictor.mask_size, weight)[objects]
        return places, targets, weight

    def _by_location(
        self, output: HeadOutput, positives: Positives, gt_instances: list[Instances], probability: float
    ) -> tuple[Places, torch.Tensor, torch.Tensor]:
        """Return the same as :meth:`_by_object`, guided by predictions where the schedule says so."""
        boxes, _ = gather_boxes(gt_instances, positives.location.device)
        locations = self._locations(output)
        xy, stride = locations.xy[positives.location], locations.stride[positives.location, None]
        ltrb = flatten_levels(output.distances)[positives.image, positives.location].detach().float() * stride
        # A box without extent would crop nothing.
        ltrb = ltrb.clamp(min=_LEAST_DISTANCE)
        predicted = torch.cat([xy - ltrb[:, :2], xy + ltrb[:, 2:]], dim=1)  # (P, 4)
        chosen = self.teacher_forcing.choose(probability, boxes[positives.objects], predicted)
        places = Places(
            image=positives.image,
            location=positives.location,
            level=self.mask_level[locations.level[positives.location]],
            boxes=chosen,
        )
        targets = crop_masks(gt_instances, chosen, positives.objects, self.mask_predictor.mask_size)
        return places, targets, positives.weight

    def branch_fields(
        self, features: dict[str, torch.Tensor], output: HeadOutput, detections: Detections
    ) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        location = detections.index.flatten()
        places = Places(
            image=detections.image.flatten(),
            location=location,
            level=self.mask_level[self._locations(output).level[location]],
            boxes=detections.boxes.flatten(0, 1),
        )
        logits = self.mask_predictor(self.mask_maps(features, output), places)  # (N D, M, M)
        return {"pred_masks": self.mask_field(logits, detections)}, {}

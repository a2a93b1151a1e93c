"""Region proposals, box head and mask head, of torchvision's parts: the same on both engines.

N images, R boxes of a batch, C channels of the pyramid, K classes without the background, M the side of a pooled map.
"""

from collections.abc import Sequence

import torch
from torch import nn
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.models.detection.mask_rcnn import MaskRCNNPredictor
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import AnchorGenerator, RegionProposalNetwork, RPNHead

from adet_ext.d2.config import CfgNode
from adet_ext.d2.layers import ROIAlign, get_norm

from .heads import MaskHead

__all__ = ["BoxHead", "Pooler", "build_roi_heads", "build_rpn"]

_CANONICAL_STRIDE = 16


class Pooler(nn.Module):
    """RoIAlign on the level that fits a box's size (Lin et al. 2017, equation 1).

    torchvision's own pooler guesses the strides from the sizes of the first images; here they are given.
    """

    def __init__(self, names: Sequence[str], strides: Sequence[int], size: int, sampling: int, canonical: float):
        """
        Args:
            size: M.
            sampling: points of a bin in each direction; 0: as many as it has pixels.
            canonical: the side of boxes that are pooled at stride 16.
        """
        super().__init__()
        self.names, self.strides, self.canonical = list(names), list(strides), canonical
        self.output_size = (size, size)
        self.align = nn.ModuleList([ROIAlign(self.output_size, 1 / s, sampling, aligned=True) for s in strides])

    def forward(
        self, features: dict[str, torch.Tensor], boxes: Sequence[torch.Tensor], image_sizes: Sequence[tuple[int, int]]
    ) -> torch.Tensor:
        """Pool boxes, (R_i, 4) absolute XYXY of each image, to (R, C, M, M)."""
        index = torch.cat([torch.full_like(b[:, :1], i) for i, b in enumerate(boxes)])
        rois = torch.cat([index, torch.cat(list(boxes))], dim=1)
        area = (rois[:, 3] - rois[:, 1]) * (rois[:, 4] - rois[:, 2])
        stride = _CANONICAL_STRIDE * area.clamp(min=1e-6).sqrt() / self.canonical
        level = (stride / self.strides[0]).log2().add(1e-6).floor().clamp(0, len(self.strides) - 1).long()
        out = features[self.names[0]].new_zeros(len(rois), features[self.names[0]].shape[1], *self.output_size)
        for i, (name, align) in enumerate(zip(self.names, self.align)):
            mine = (level == i).nonzero()[:, 0]
            out = out.index_copy(0, mine, align(features[name], rois[mine].to(out.dtype)))
        return out


class BoxHead(nn.Sequential):
    """Two linear layers with group norm and ReLU: (R, C, M, M) -> (R, width)."""

    def __init__(self, inputs: int, width: int):
        layers: list[nn.Module] = [nn.Flatten()]
        for count in (inputs, width):
            layers += [nn.Linear(count, width, bias=False), get_norm("GN", width), nn.ReLU()]
        super().__init__(*layers)


def build_rpn(cfg: CfgNode, channels: int, num_levels: int) -> RegionProposalNetwork:
    """Return the proposal network on ``num_levels`` levels.

    Raises:
        ValueError: the anchors' sizes are not given level by level.
    """
    node, anchors = cfg.MODEL.RPN, cfg.MODEL.ANCHOR_GENERATOR
    sizes, ratios = [tuple(s) for s in anchors.SIZES], [tuple(r) for r in anchors.ASPECT_RATIOS]
    if len(sizes) != num_levels or len(ratios) not in (1, num_levels):
        raise ValueError(
            f"MODEL.ANCHOR_GENERATOR must have SIZES for each of the {num_levels} levels of MODEL.RPN.IN_FEATURES, and "
            f"ASPECT_RATIOS for each or once; got {anchors.SIZES} and {anchors.ASPECT_RATIOS}"
        )
    generator = AnchorGenerator(tuple(sizes), tuple(ratios * (num_levels // len(ratios))))
    return RegionProposalNetwork(
        generator,
        RPNHead(channels, generator.num_anchors_per_location()[0]),
        fg_iou_thresh=node.IOU_THRESHOLDS[1],
        bg_iou_thresh=node.IOU_THRESHOLDS[0],
        batch_size_per_image=node.BATCH_SIZE_PER_IMAGE,
        positive_fraction=node.POSITIVE_FRACTION,
        pre_nms_top_n={"training": node.PRE_NMS_TOPK_TRAIN, "testing": node.PRE_NMS_TOPK_TEST},
        post_nms_top_n={"training": node.POST_NMS_TOPK_TRAIN, "testing": node.POST_NMS_TOPK_TEST},
        nms_thresh=node.NMS_THRESH,
    )


def build_roi_heads(
    cfg: CfgNode, channels: int, strides: dict[str, int], mask_layers: Sequence[Sequence[str]]
) -> RoIHeads:
    """Return box head and mask head; ``mask_layers`` are the choices of the mask head's searched layers.

    Args:
        strides: of the pyramid's levels.
    """
    node, box, mask = cfg.MODEL.ROI_HEADS, cfg.MODEL.ROI_BOX_HEAD, cfg.MODEL.ROI_MASK_HEAD
    names, classes = list(node.IN_FEATURES), cfg.MODEL.FCOS.NUM_CLASSES + 1
    if box.FC_DIM % 32:
        raise ValueError(f"MODEL.ROI_BOX_HEAD.FC_DIM must be a multiple of 32; got {box.FC_DIM}")

    def pooler(size: int, sampling: int) -> Pooler:
        return Pooler(names, [strides[n] for n in names], size, sampling, cfg.MODEL.AUTO_PANOPTIC.CANONICAL_BOX)

    threshold = node.IOU_THRESHOLDS[0]
    heads = RoIHeads(
        pooler(box.POOLER_RESOLUTION, box.POOLER_SAMPLING_RATIO),
        BoxHead(channels * box.POOLER_RESOLUTION**2, box.FC_DIM),
        FastRCNNPredictor(box.FC_DIM, classes),
        fg_iou_thresh=threshold,
        bg_iou_thresh=threshold,
        batch_size_per_image=node.BATCH_SIZE_PER_IMAGE,
        positive_fraction=node.POSITIVE_FRACTION,
        bbox_reg_weights=tuple(box.BBOX_REG_WEIGHTS),
        score_thresh=node.SCORE_THRESH_TEST,
        nms_thresh=node.NMS_THRESH_TEST,
        detections_per_img=cfg.TEST.DETECTIONS_PER_IMAGE,
        mask_roi_pool=pooler(mask.POOLER_RESOLUTION, mask.POOLER_SAMPLING_RATIO),
        mask_head=MaskHead(mask_layers, channels, mask.CONV_DIM),
        mask_predictor=MaskRCNNPredictor(mask.CONV_DIM, mask.CONV_DIM, classes),
    )
    nn.init.normal_(heads.box_predictor.cls_score.weight, std=0.01)
    nn.init.normal_(heads.box_predictor.bbox_pred.weight, std=0.001)
    for layer in (heads.box_predictor.cls_score, heads.box_predictor.bbox_pred):
        nn.init.zeros_(layer.bias)
    return heads

"""Blending step by step in plain PyTorch: crop, then merge (thesis 4.3.2, equations 4.1 to 4.4).

N images, K bases, D instances, M side of an attention map, R side of a mask.

It is the specification of the fused operators, and serves where they are not built.
"""

import torch
from torch.nn import functional as F
from torchvision.ops import roi_align, roi_pool

__all__ = ["crop_bases", "blend", "assemble", "one_hot_attentions"]


def crop_bases(
    bases: torch.Tensor,
    boxes: torch.Tensor,
    image: torch.Tensor,
    *,
    size: int,
    scale: float,
    sampling_ratio: int = 1,
    pooler_type: str = "ROIAlignV2",
) -> torch.Tensor:
    """Crop the bases by each box and bring the crop to ``size`` x ``size`` (equation 4.1).

    Args:
        bases: (N, K, H, W).
        boxes: (D, 4), absolute (x0, y0, x1, y1) in pixels of the network's input; may leave the image. What the
            RoIAlign kinds crop by a box that is not finite is zero.
        image: (D,) the image of each box.
        scale: 1 / stride of the bases.
        sampling_ratio: samples a bin and direction, for the RoIAlign kinds.
        pooler_type: "ROIAlignV2", "ROIAlign" (no half-pixel correction) or "ROIPool" (nearest).

    Returns:
        (D, K, size, size).

    Raises:
        RuntimeError: an image is out of range.
    """
    if pooler_type not in ("ROIAlign", "ROIAlignV2", "ROIPool"):
        raise ValueError(f"pooler_type is {pooler_type!r}; it can be ROIAlignV2, ROIAlign or ROIPool")
    image = torch.arange(len(bases), device=image.device).gather(0, image.long())  # RoIAlign reads anywhere
    rois = torch.cat([image[:, None].to(boxes.dtype), boxes], dim=1).to(bases.dtype)  # (D, 5)
    if pooler_type == "ROIPool":
        return roi_pool(bases, rois, size, scale)
    finite = boxes.isfinite().all(dim=1)[:, None, None, None]  # no such rule in RoIAlign: it reads anywhere
    rois = rois.nan_to_num(0, 0, 0)
    crops = roi_align(bases, rois, size, scale, sampling_ratio, aligned=pooler_type == "ROIAlignV2")
    return crops.masked_fill(~finite, 0)


def blend(crops: torch.Tensor, attentions: torch.Tensor, *, top_interp: str = "bilinear") -> torch.Tensor:
    """Weight the cropped bases by the instances' attentions and add them up (equations 4.2 to 4.4).

    Several bases: softmax over them. A single one: sigmoids on the basis and on the attention (section 4.4.1,
    "Number of bases"), whose product is a probability already; its logit is returned, so that one rule, sigmoid of
    the result, gives the mask in all cases.

    Args:
        crops: (D, K, R, R).
        attentions: (D, K, M, M), logits.
        top_interp: "bilinear" or "nearest", for M -> R.

    Returns:
        (D, R, R) mask logits.
    """
    resized = F.interpolate(attentions, crops.shape[-2:], mode=top_interp)  # (D, K, R, R)
    if crops.shape[1] == 1:
        a, b = resized[:, 0], crops[:, 0]
        # log(p / (1 - p)) of p = sigmoid(a) sigmoid(b), stable at both ends.
        return -torch.logsumexp(torch.stack([-a, -b, -a - b]), dim=0)
    return (resized.softmax(dim=1) * crops).sum(dim=1)


def one_hot_attentions(num_instances: int, side: int, like: torch.Tensor) -> torch.Tensor:
    """Attentions of the assembler (FCIS): basis ``i * side + j`` alone at cell (i, j): (D, side^2, side, side).

    They are weights, not logits: cell by cell one basis has weight one.
    """
    eye = torch.eye(side * side, dtype=like.dtype, device=like.device)
    return eye.view(1, side * side, side, side).expand(num_instances, -1, -1, -1)


def assemble(crops: torch.Tensor, side: int) -> torch.Tensor:
    """Position-sensitive assembly (FCIS): each of side x side parts of the mask comes from its own basis.

    The blender with fixed one-hot attentions and nearest interpolation. (D, side^2, R, R) -> (D, R, R).
    """
    weights = one_hot_attentions(len(crops), side, crops)
    return (F.interpolate(weights, crops.shape[-2:], mode="nearest") * crops).sum(dim=1)

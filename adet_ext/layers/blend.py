"""Masks from bases, boxes and attentions (thesis 4.3.2 and 5.4.2).

N images, K bases, D instances, M side of an attention map, R side of a mask.
"""

import torch

from .blend_factored import blend_factored, blend_vector
from .blend_reference import assemble, blend, crop_bases, one_hot_attentions

__all__ = [
    "assemble",
    "blend",
    "blend_factored",
    "blend_masks",
    "blend_vector",
    "crop_bases",
    "one_hot_attentions",
]


def blend_masks(
    bases: torch.Tensor,
    attentions: torch.Tensor,
    boxes: torch.Tensor,
    image: torch.Tensor,
    *,
    size: int,
    scale: float,
    sampling_ratio: int = 1,
    pooler_type: str = "ROIAlignV2",
    top_interp: str = "bilinear",
) -> torch.Tensor:
    """Crop the bases by each box and blend each crop with its attentions (equations 4.1 to 4.4).

    Args:
        bases: (N, K, H, W).
        attentions: (D, K, M, M), logits. M = 1 is the weighted sum. With K = 1, see :func:`blend`.
        boxes: (D, 4), absolute (x0, y0, x1, y1) in pixels of the network's input; may leave the image.
        image: (D,) the image of each box.
        size: R.
        scale: 1 / stride of the bases.
        sampling_ratio, pooler_type: of the crop, see :func:`crop_bases`.
        top_interp: "bilinear" or "nearest", for M -> R.

    Returns:
        (D, R, R) mask logits.
    """
    crops = crop_bases(
        bases, boxes, image, size=size, scale=scale, sampling_ratio=sampling_ratio, pooler_type=pooler_type
    )
    return blend(crops, attentions, top_interp=top_interp)

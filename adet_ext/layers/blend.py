"""Masks from bases, boxes and attentions (thesis 4.3.2 and 5.4.2), and masks into the image.

N images, K bases, D instances, M side of an attention map, R side of a mask.
"""

import torch

from .blend_checks import check_boxes, check_like, check_size, fuses
from .blend_factored import blend_factored, blend_vector
from .blend_native import ONE_HOT, SOFTMAX
from .blend_reference import assemble, blend, crop_bases, one_hot_attentions
from .floats import sum_dtype
from .paste import paste_blended, paste_masks

__all__ = [
    "assemble",
    "assemble_masks",
    "blend",
    "blend_factored",
    "blend_masks",
    "blend_vector",
    "crop_bases",
    "fuses",
    "one_hot_attentions",
    "paste_blended",
    "paste_masks",
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

    Compiled, it is one pass that stores neither crops nor up-sampled attentions, in either direction. It then takes
    ``sampling_ratio`` 1 and the RoIAlign kinds, which is how BlendMask is defined; anything else is composed of
    :func:`crop_bases` and :func:`blend`, which specify it.

    Args:
        bases: (N, K, H, W), contiguous or channels-last. float32, float64, or float16 and bfloat16, which are summed in
            float32.
        attentions: (D, K, M, M), logits. M = 1 is the weighted sum. With K = 1, see :func:`blend`.
        boxes: (D, 4), absolute (x0, y0, x1, y1) in pixels of the network's input; may leave the image. A box that is
            not finite crops zeros. They get no gradient.
        image: (D,) the image of each box, in [0, N).
        size: R.
        scale: 1 / stride of the bases.
        sampling_ratio, pooler_type: of the crop, see :func:`crop_bases`.
        top_interp: "bilinear" or "nearest", for M -> R; the rule of ``F.interpolate`` with ``align_corners=False``.

    Returns:
        (D, R, R) mask logits, of the type that bases and attentions promote to.

    Raises:
        TypeError, ValueError: an argument does not fit; the message names it. RuntimeError: so does ``image``.
    """
    check_boxes(bases, boxes, image, size)
    check_like("attentions", attentions, bases, (len(boxes), bases.shape[1], None, None))
    if attentions.shape[2] != attentions.shape[3] or attentions.shape[3] == 0:
        raise ValueError(f"attentions are {tuple(attentions.shape)}; they take square maps, (D, K, M, M)")
    if top_interp not in ("nearest", "bilinear"):
        raise ValueError(f"top_interp is {top_interp!r}; it can be nearest or bilinear")
    dtype = torch.promote_types(bases.dtype, attentions.dtype)
    wide = sum_dtype(dtype)
    if fuses("blend", bases, sampling_ratio, pooler_type):
        return torch.ops.adet_ext.blend(
            bases.to(dtype),
            attentions.to(dtype),
            boxes.detach().to(wide),
            image.long(),
            size,
            scale,
            pooler_type == "ROIAlignV2",
            top_interp == "nearest",
            SOFTMAX,
        )
    crops = crop_bases(
        bases.to(wide), boxes, image, size=size, scale=scale, sampling_ratio=sampling_ratio, pooler_type=pooler_type
    )
    return blend(crops, attentions.to(wide), top_interp=top_interp).to(dtype)


def assemble_masks(
    bases: torch.Tensor,
    boxes: torch.Tensor,
    image: torch.Tensor,
    *,
    side: int,
    size: int,
    scale: float,
    sampling_ratio: int = 1,
    pooler_type: str = "ROIAlignV2",
) -> torch.Tensor:
    """Position-sensitive assembly (FCIS) straight from the bases: :func:`crop_bases`, then :func:`assemble`.

    Compiled, only the basis that a part of the mask comes from is read there, one in ``side`` squared.

    Args:
        bases: (N, side^2, H, W).
        side: parts of a mask along each of its sides.
        boxes, image, size, scale, sampling_ratio, pooler_type: see :func:`blend_masks`.

    Returns:
        (D, R, R) mask logits.
    """
    check_boxes(bases, boxes, image, size)
    check_size("bases", bases, 1, side * side, "one plane a part of the mask")
    if fuses("blend", bases, sampling_ratio, pooler_type):
        return torch.ops.adet_ext.blend(
            bases,
            bases.new_empty((0, side * side, side, side)),
            boxes.detach().to(sum_dtype(bases.dtype)),
            image.long(),
            size,
            scale,
            pooler_type == "ROIAlignV2",
            True,
            ONE_HOT,
        )
    crops = crop_bases(
        bases.to(sum_dtype(bases.dtype)),
        boxes,
        image,
        size=size,
        scale=scale,
        sampling_ratio=sampling_ratio,
        pooler_type=pooler_type,
    )
    return assemble(crops, side).to(bases.dtype)

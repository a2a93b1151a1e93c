"""Instance prediction of DR1Mask from bases wider than BlendMask's: vector and factored attentions (thesis 5.4.2).

N images, C channels of the bases, D instances, K projected bases, r rank of the attentions, M their side, R the side of
a mask.
"""

import torch
from torch.nn import functional as F

from .blend_checks import check_boxes, check_like, fuses
from .blend_native import AS_IS, SOFTMAX
from .blend_reference import crop_bases
from .floats import sum_dtype

__all__ = ["blend_factored", "blend_vector"]


def blend_factored(
    bases: torch.Tensor,
    t: torch.Tensor,
    sigma: torch.Tensor,
    u: torch.Tensor,
    v: torch.Tensor,
    boxes: torch.Tensor,
    image: torch.Tensor,
    *,
    size: int,
    scale: float,
    sampling_ratio: int = 1,
    pooler_type: str = "ROIAlignV2",
    top_interp: str = "bilinear",
    normalise: bool = False,
) -> torch.Tensor:
    """Masks by factored attention (equations 5.7 and 5.8).

    The crop F of the bases is projected, R = T * F, and the attention Q_k = U_k^T diag(sigma_k) V_k, brought to the
    crop's resolution; the mask is the sum of Q_k R_k over k. As printed, Q is multiplied as it is: "R_i and the
    full-attention Q^i are element-wise multiplied and summed along the first dimension". A softmax is nowhere
    mentioned there, while 4.3.2 gives it a step and an equation of its own, and calls its result scores S, not
    attentions. "Similar to BlendMask" is what the sentence says of multiplying and summing. The components of Q that
    figure 5.5 shows are used with either sign. ``normalise`` puts BlendMask's softmax over k in between, where K > 1.

    Args:
        bases: (N, C, H, W).
        t: (D, K C), the projection's weights, output by output.
        sigma: (D, K r), the diagonals, k by k.
        u, v: (K, r, M), for rows and for columns; shared by all instances.
        boxes: (D, 4), absolute (x0, y0, x1, y1) in pixels of the network's input; may leave the image.
        image: (D,) the image of each box.
        size: R.
        scale: 1 / stride of the bases.
        sampling_ratio, pooler_type: of the crop, see :func:`crop_bases`.
        top_interp: "bilinear" or "nearest", for M -> R.

    Returns:
        (D, R, R) mask logits.
    """
    check_boxes(bases, boxes, image, size)
    count, channels = len(boxes), bases.shape[1]
    if u.dim() != 3 or 0 in u.shape:
        raise ValueError(f"u has shape {tuple(u.shape)}; it takes (K, r, M)")
    num_bases, rank, _ = u.shape
    check_like("u", u, bases, (None, None, None))
    check_like("v", v, bases, u.shape)
    check_like("t", t, bases, (count, num_bases * channels))
    check_like("sigma", sigma, bases, (count, num_bases * rank))
    if top_interp not in ("nearest", "bilinear"):
        raise ValueError(f"top_interp is {top_interp!r}; it can be nearest or bilinear")
    dtype = bases.dtype
    for tensor in (t, sigma, u, v):
        dtype = torch.promote_types(dtype, tensor.dtype)
    wide = sum_dtype(dtype)
    t = t.unflatten(1, (num_bases, channels))  # (D, K, C)
    sigma = sigma.unflatten(1, (num_bases, rank))  # (D, K, r)
    # Interpolation is separable: the product of the interpolated factors is the interpolated product.
    mode = "linear" if top_interp == "bilinear" else "nearest"
    u, v = u.to(wide), v.to(wide)
    if u.shape[2] != size:
        u, v = (F.interpolate(factor, size, mode=mode) for factor in (u, v))  # (K, r, R)
    if fuses("blend_factored", bases, sampling_ratio, pooler_type):
        return torch.ops.adet_ext.blend_factored(
            bases.to(dtype),
            *(factor.to(dtype) for factor in (t, sigma, u, v)),
            boxes.detach().to(wide),
            image.long(),
            scale,
            pooler_type == "ROIAlignV2",
            SOFTMAX if normalise and num_bases > 1 else AS_IS,
        )
    crops = crop_bases(
        bases.to(wide), boxes, image, size=size, scale=scale, sampling_ratio=sampling_ratio, pooler_type=pooler_type
    )  # (D, C, R, R)
    projected = torch.einsum("dkc,dcyx->dkyx", t.to(wide), crops)  # (D, K, R, R)
    attentions = torch.einsum("dkr,kry,krx->dkyx", sigma.to(wide), u, v)  # (D, K, R, R)
    if normalise and num_bases > 1:
        attentions = attentions.softmax(dim=1)
    return (attentions * projected).sum(dim=1).to(dtype)


def blend_vector(
    bases: torch.Tensor,
    embeddings: torch.Tensor,
    boxes: torch.Tensor,
    image: torch.Tensor,
    *,
    size: int,
    scale: float,
    sampling_ratio: int = 1,
    pooler_type: str = "ROIAlignV2",
) -> torch.Tensor:
    """Masks by one weight a channel, as in YOLACT: the sum of the crop's channels, each times its weight as it is.

    Args:
        bases: (N, C, H, W).
        embeddings: (D, C).
        boxes, image, size, scale, sampling_ratio, pooler_type: see :func:`blend_factored`.

    Returns:
        (D, R, R) mask logits.
    """
    check_boxes(bases, boxes, image, size)
    check_like("embeddings", embeddings, bases, (len(boxes), bases.shape[1]))
    # A projection to one base, whose attention is one everywhere.
    ones = embeddings.new_ones((1, 1, size))
    return blend_factored(
        bases,
        embeddings,
        ones[0, :, :1].expand(len(boxes), 1),
        ones,
        ones,
        boxes,
        image,
        size=size,
        scale=scale,
        sampling_ratio=sampling_ratio,
        pooler_type=pooler_type,
    )

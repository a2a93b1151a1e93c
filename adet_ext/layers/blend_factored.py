"""Instance prediction of DR1Mask from bases wider than BlendMask's: vector and factored attentions (thesis 5.4.2).

N images, C channels of the bases, D instances, K projected bases, r rank of the attentions, M their side, R the side of
a mask.
"""

import torch
from torch.nn import functional as F

from .blend_reference import crop_bases

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
    mentioned, unlike in 4.3.2, and T has a free scale that BlendMask's bases share with it; ``normalise`` puts
    BlendMask's softmax over k in between.

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
    num_bases, rank, _ = u.shape
    crops = crop_bases(
        bases, boxes, image, size=size, scale=scale, sampling_ratio=sampling_ratio, pooler_type=pooler_type
    )  # (D, C, R, R)
    projected = torch.einsum("dkc,dcyx->dkyx", t.unflatten(1, (num_bases, -1)), crops)  # (D, K, R, R)
    weights = sigma.unflatten(1, (num_bases, rank))
    attentions = torch.einsum("dkr,kry,krx->dkyx", weights, u, v)  # (D, K, M, M)
    attentions = F.interpolate(attentions, (size, size), mode=top_interp)  # (D, K, R, R)
    if normalise:
        attentions = attentions.softmax(dim=1)
    return (attentions * projected).sum(dim=1)


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
    crops = crop_bases(
        bases, boxes, image, size=size, scale=scale, sampling_ratio=sampling_ratio, pooler_type=pooler_type
    )  # (D, C, R, R)
    return torch.einsum("dc,dcyx->dyx", embeddings, crops)

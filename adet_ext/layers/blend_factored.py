"""Instance prediction of DR1Mask: vector and factored attentions on wide bases (thesis 5.4.2).

N images, C channels of the bases, D instances, K projected bases, r rank of the attentions, M their side, R the side of
a mask.
"""

import torch
from torch.nn import functional as F

from .blend_masks import AS_IS, SHARED_BYTES, SOFTMAX, check_call, fuses, once
from .blend_reference import check_crop, check_factor, crop_bases
from .checks import check_like, check_option, check_range, check_shape, shape_text
from .extension import native_operators
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
    normalize: bool = False,
) -> torch.Tensor:
    """Compute masks by factored attention (equations 5.7 and 5.8).

    The crop F of the bases is projected, R = T * F, and the attention Q_k = U_k^T diag(sigma_k) V_k is brought to the
    crop's resolution; the mask is the sum of Q_k R_k over k.

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
        normalize: take BlendMask's softmax over k of the attentions, where K > 1. The printed formula has none.

    Returns:
        (D, R, R) mask logits.
    """
    check_crop(bases, boxes, image, size, scale, sampling_ratio, pooler_type)
    _check_factors(bases, t, sigma, u, v, boxes.shape[0])
    check_option(top_interp, "top_interp", ("nearest", "bilinear"))
    (num_bases, rank, _), channels = u.shape, bases.shape[1]
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
    if fuses("blend_factored", bases, sampling_ratio, pooler_type) and _fits((bases, t, sigma, u, v), wide, size):
        return torch.ops.adet_ext.blend_factored(
            bases.to(dtype),
            *(factor.to(dtype) for factor in (t, sigma, u, v)),
            boxes.detach().to(wide),
            image.long(),
            scale,
            pooler_type == "ROIAlignV2",
            SOFTMAX if normalize and num_bases > 1 else AS_IS,
        )
    crops = crop_bases(
        bases.to(wide), boxes, image, size=size, scale=scale, sampling_ratio=sampling_ratio, pooler_type=pooler_type
    )  # (D, C, R, R)
    projected = torch.einsum("dkc,dcyx->dkyx", t.to(wide), crops)  # (D, K, R, R)
    attentions = torch.einsum("dkr,kry,krx->dkyx", sigma.to(wide), u, v)  # (D, K, R, R)
    if normalize and num_bases > 1:
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
    """Compute masks by one weight for each channel, as in YOLACT: the weighted sum of the crop's channels.

    Args:
        bases: (N, C, H, W).
        embeddings: (D, C).
        boxes, image, size, scale, sampling_ratio, pooler_type: see :func:`blend_factored`.

    Returns:
        (D, R, R) mask logits.
    """
    check_crop(bases, boxes, image, size, scale, sampling_ratio, pooler_type)
    check_factor(embeddings, "embeddings", bases, (boxes.shape[0], bases.shape[1]))
    # A projection to one basis, whose attention is one everywhere.
    ones = embeddings.new_ones((1, 1, size))
    return blend_factored(
        bases,
        embeddings,
        ones[0, :, :1].expand(boxes.shape[0], 1),
        ones,
        ones,
        boxes,
        image,
        size=size,
        scale=scale,
        sampling_ratio=sampling_ratio,
        pooler_type=pooler_type,
    )


def _check_factors(bases, t, sigma, u, v, count: int) -> None:
    check_factor(u, "u", bases, ("K", "r", "M"))
    if u.numel() == 0:
        raise ValueError(f"u must have K, r and M above 0; got {shape_text(u.shape)}")
    num_bases, rank, _ = u.shape
    check_factor(v, "v", bases, tuple(u.shape))
    check_factor(t, "t", bases, (count, num_bases * bases.shape[1]))
    check_factor(sigma, "sigma", bases, (count, num_bases * rank))


def _fits(tensors: tuple[torch.Tensor, ...], wide: torch.dtype, size: int) -> bool:
    """Whether a GPU's shared memory can hold the factors of a detection. The gradient needs more of it."""
    bases, _, _, u, _ = tensors
    if bases.device.type != "cuda":
        return True
    (num_bases, rank, _), channels = u.shape, bases.shape[1]
    needed = num_bases * (channels + rank)
    if torch.is_grad_enabled() and any(t.requires_grad for t in tensors):
        needed += num_bases * (channels + (rank + 2) * size)
    return needed * wide.itemsize <= SHARED_BYTES


def _check_native(bases, t, sigma, u, v, boxes, image, scale, weighting) -> None:
    check_call(bases, boxes, image, scale, weighting)
    check_shape(u, "u", ("K", "r", "R"))
    num, rank, size = u.shape
    if num == 0 or rank == 0:
        raise ValueError(f"u must have K and r above 0; got {shape_text(u.shape)}")
    check_range(size, "size", 1, 4096)
    count = boxes.shape[0]
    check_shape(v, "v", (num, rank, size))
    check_shape(t, "t", (count, num, bases.shape[1]))
    check_shape(sigma, "sigma", (count, num, rank))
    for tensor, name in ((u, "u"), (v, "v"), (t, "t"), (sigma, "sigma")):
        check_like(tensor, name, bases)


def _setup(ctx, inputs, output):
    *tensors, scale, aligned, weighting = inputs
    ctx.save_for_backward(*tensors)
    ctx.options = (scale, aligned, weighting)


def _backward(ctx, grad):
    need_bases, need_factors = ctx.needs_input_grad[0], any(ctx.needs_input_grad[1:5])
    _, _, sigma, u, _, _, _ = ctx.saved_tensors
    grad_bases, grad_t, along_x, along_y = torch.ops.adet_ext.blend_factored_backward(
        grad, *ctx.saved_tensors, *ctx.options, need_bases, need_factors, torch.are_deterministic_algorithms_enabled()
    )
    grads = [None] * 4
    if need_factors:
        kind = sigma.dtype
        # along_x: sum over x of grad Q v; along_y: sum over y of grad Q u sigma; (D, K, r, R) both, not rounded yet.
        wide = u.to(along_x.dtype)
        grad_sigma = (along_x * wide).sum(dim=3).to(kind)  # (D, K, r)
        grad_u = (along_x * sigma.to(along_x.dtype)[..., None]).sum(dim=0).to(kind)  # (K, r, R)
        grads = [grad_t, grad_sigma, grad_u, along_y.sum(dim=0).to(kind)]
    return (grad_bases if need_bases else None, *grads, *[None] * 5)


def _register() -> None:
    @torch.library.register_fake("adet_ext::blend_factored")
    def _(bases, t, sigma, u, v, boxes, image, scale, aligned, weighting):
        _check_native(bases, t, sigma, u, v, boxes, image, scale, weighting)
        return bases.new_empty((boxes.shape[0], u.shape[2], u.shape[2]))

    @torch.library.register_fake("adet_ext::blend_factored_backward")
    def _(grad, bases, t, sigma, u, v, boxes, image, scale, aligned, weighting, need_bases, need_factors, _):
        _check_native(bases, t, sigma, u, v, boxes, image, scale, weighting)
        check_shape(grad, "grad", (boxes.shape[0], "R", "R"))
        check_like(grad, "grad", bases)
        check_shape(grad, "grad", (boxes.shape[0], u.shape[2], u.shape[2]))
        kind = sum_dtype(bases.dtype)
        grad_bases = bases.new_empty(bases.shape if need_bases else (0,))
        if not need_factors:
            return (grad_bases, t.new_empty((0,)), *(t.new_empty((0,), dtype=kind) for _ in range(2)))
        share = (boxes.shape[0], *u.shape)
        return (grad_bases, t.new_empty(t.shape), *(t.new_empty(share, dtype=kind) for _ in range(2)))

    torch.library.register_autograd("adet_ext::blend_factored", _backward, setup_context=_setup)
    torch.library.register_autograd("adet_ext::blend_factored_backward", once)


if "blend_factored" in native_operators():
    _register()

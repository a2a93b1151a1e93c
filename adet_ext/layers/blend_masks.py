"""Compute masks from bases, boxes and attentions (thesis 4.3.2). Letters as in :mod:`adet_ext.layers`."""

import torch

from .blend_reference import assemble, check_crop, check_factor, crop_bases, merge_crops
from .checks import (
    check_boxes,
    check_index,
    check_like,
    check_option,
    check_range,
    check_shape,
    shape_text,
)
from .extension import native_operators, serves
from .floats import sum_dtype

__all__ = ["assemble_masks", "blend_masks"]

SOFTMAX, AS_IS, ONE_HOT = 0, 1, 2  # Weighting in csrc/blend.h
SHARED_BYTES = 48 * 1024  # of a block on a GPU; kSharedBytes in csrc/cuda


def fuses(operator: str, bases: torch.Tensor, sampling_ratio: int, pooler_type: str) -> bool:
    """Whether the compiled operator supports these bases and this kind of crop."""
    return sampling_ratio == 1 and pooler_type in ("ROIAlign", "ROIAlignV2") and serves(operator, bases)


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
    objects: torch.Tensor | None = None,
) -> torch.Tensor:
    """Crop the bases by each box and blend each crop with its attentions (equations 4.1 to 4.4).

    The compiled operator makes one pass in each direction and stores neither crops nor up-sampled attentions. It
    supports ``sampling_ratio`` 1 and the RoIAlign kinds, as in BlendMask. All else is composed of :func:`crop_bases`
    and :func:`merge_crops`, which specify the result.

    Args:
        bases: (N, K, H, W), contiguous or channels-last. float32, float64, or float16 and bfloat16, which are summed in
            float32.
        attentions: (D, K, M, M), logits. M = 1 is the weighted sum. With K = 1, see :func:`merge_crops`.
        boxes: (D, 4), absolute (x0, y0, x1, y1) in pixels of the network's input; may leave the image. A box that is
            not finite crops zeros. They get no gradient.
        image: (D,) the image of each box, in [0, N).
        size: R.
        scale: 1 / stride of the bases.
        sampling_ratio, pooler_type: of the crop, see :func:`crop_bases`.
        top_interp: "bilinear" or "nearest", for M -> R; the rule of ``F.interpolate`` with ``align_corners=False``.
        objects: (D,) int64, the box of each mask; boxes and image are then (B, 4) and (B,). None: box d is that of
            mask d.

    Returns:
        (D, R, R) mask logits, of the type that bases and attentions promote to.

    Raises:
        TypeError, ValueError: an argument does not fit; the message names it. RuntimeError: so does ``image``.
    """
    check_crop(bases, boxes, image, size, scale, sampling_ratio, pooler_type)
    count = _check_objects(objects, boxes)
    check_factor(attentions, "attentions", bases, (count, bases.shape[1], "M", "M"))
    if attentions.shape[3] == 0:
        raise ValueError(f"attentions must have M above 0; got {shape_text(attentions.shape)}")
    check_option(top_interp, "top_interp", ("nearest", "bilinear"))
    dtype = torch.promote_types(bases.dtype, attentions.dtype)
    wide = sum_dtype(dtype)
    if fuses("blend_masks", bases, sampling_ratio, pooler_type) and _fits(bases, attentions, size):
        options = size, scale, pooler_type == "ROIAlignV2", top_interp == "nearest", SOFTMAX
        return _fused(bases.to(dtype), attentions.to(dtype), boxes, image, objects, *options)
    crops = _crops(bases.to(wide), boxes, image, objects, size, scale, sampling_ratio, pooler_type)
    return merge_crops(crops, attentions.to(wide), top_interp=top_interp).to(dtype)


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
    objects: torch.Tensor | None = None,
) -> torch.Tensor:
    """Assemble position-sensitive masks (FCIS) from the bases: :func:`crop_bases`, then :func:`assemble`.

    The compiled operator reads, for each part of a mask, only the basis that it comes from.

    Args:
        bases: (N, side^2, H, W).
        side: parts of a mask along each of its sides.
        boxes, image, size, scale, sampling_ratio, pooler_type, objects: see :func:`blend_masks`.

    Returns:
        (D, R, R) mask logits.
    """
    check_crop(bases, boxes, image, size, scale, sampling_ratio, pooler_type)
    check_range(side, "side", 1, 4096)
    check_shape(bases, "bases", ("N", side * side, "H", "W"))
    _check_objects(objects, boxes)
    if fuses("blend_masks", bases, sampling_ratio, pooler_type):
        attentions = bases.new_empty((0, side * side, side, side))
        options = size, scale, pooler_type == "ROIAlignV2", True, ONE_HOT
        return _fused(bases, attentions, boxes, image, objects, *options)
    wide = sum_dtype(bases.dtype)
    crops = _crops(bases.to(wide), boxes, image, objects, size, scale, sampling_ratio, pooler_type)
    return assemble(crops, side).to(bases.dtype)


def _fused(bases, attentions, boxes, image, objects, *options) -> torch.Tensor:
    """Call the compiled operator; ``options``: R, scale, whether aligned, whether nearest, the weighting."""
    if objects is not None:
        boxes, image = boxes[objects], image[objects]
    boxes = boxes.detach().to(sum_dtype(bases.dtype))
    return torch.ops.adet_ext.blend_masks(bases, attentions, boxes, image.long(), *options)


def _crops(bases, boxes, image, objects, size, scale, sampling_ratio, pooler_type) -> torch.Tensor:
    """Crop the bases once for each box, even if several masks have it: (D, K, R, R)."""
    crops = crop_bases(
        bases, boxes, image, size=size, scale=scale, sampling_ratio=sampling_ratio, pooler_type=pooler_type
    )
    return crops if objects is None else crops[objects]


def _check_objects(objects: torch.Tensor | None, boxes: torch.Tensor) -> int:
    """Check the box of each mask; return the number of masks."""
    if objects is None:
        return boxes.shape[0]
    check_shape(objects, "objects", ("D",))
    check_like(objects, "objects", torch.empty((), dtype=torch.int64, device=boxes.device))
    return objects.shape[0]


def _fits(bases: torch.Tensor, attentions: torch.Tensor | None, size: int) -> bool:
    """Whether a GPU's shared memory can hold a row of R for each basis, which the gradient of attentions needs."""
    if bases.device.type != "cuda" or attentions is None:
        return True
    if not (torch.is_grad_enabled() and attentions.requires_grad):
        return True
    return (
        bases.shape[1] * size * sum_dtype(torch.promote_types(bases.dtype, attentions.dtype)).itemsize <= SHARED_BYTES
    )


def check_call(bases, boxes, image, scale, weighting) -> None:
    """Check what the kernels of both blend operators check."""
    check_range(weighting, "weighting", 0, 2)
    check_crop(bases, boxes, image, 1, scale)
    check_boxes(boxes, bases, exact=True)
    check_index(image, "image", boxes)


def _check_native(bases, attentions, boxes, image, size, scale, weighting) -> None:
    check_range(size, "size", 1, 4096)
    check_call(bases, boxes, image, scale, weighting)
    one_hot = weighting == ONE_HOT
    check_shape(attentions, "attentions", (0 if one_hot else boxes.shape[0], bases.shape[1], "M", "M"))
    check_like(attentions, "attentions", bases)
    side = attentions.shape[3]
    if side == 0:
        raise ValueError(f"attentions must have M above 0; got {shape_text(attentions.shape)}")
    if one_hot and bases.shape[1] != side * side:
        raise ValueError(f"bases must have a plane for each of the {side} x {side} parts; got {bases.shape[1]}")


def once(ctx, *grads):
    raise RuntimeError("the blend operators have no second derivatives")


def _setup(ctx, inputs, output):
    bases, attentions, boxes, image, _, *options = inputs
    ctx.save_for_backward(bases, attentions, boxes, image)
    ctx.options = options


def _backward(ctx, grad):
    need_bases, need_attentions = ctx.needs_input_grad[:2]
    grad_bases, grad_attentions = torch.ops.adet_ext.blend_masks_backward(
        grad,
        *ctx.saved_tensors,
        *ctx.options,
        need_bases,
        need_attentions,
        torch.are_deterministic_algorithms_enabled(),
    )
    need_attentions = need_attentions and ctx.options[-1] != ONE_HOT
    return (grad_bases if need_bases else None, grad_attentions if need_attentions else None, *[None] * 7)


def _register() -> None:
    @torch.library.register_fake("adet_ext::blend_masks")
    def _(bases, attentions, boxes, image, size, scale, aligned, nearest, weighting):
        _check_native(bases, attentions, boxes, image, size, scale, weighting)
        return bases.new_empty((boxes.shape[0], size, size))

    @torch.library.register_fake("adet_ext::blend_masks_backward")
    def _(grad, bases, attentions, boxes, image, scale, aligned, nearest, weighting, need_bases, need_attentions, _):
        check_shape(grad, "grad", ("D", "R", "R"))
        _check_native(bases, attentions, boxes, image, grad.shape[1], scale, weighting)
        check_shape(grad, "grad", (boxes.shape[0], "R", "R"))
        check_like(grad, "grad", bases)
        shape = attentions.shape if need_attentions and weighting != ONE_HOT else (0,)
        return torch.empty_like(bases) if need_bases else bases.new_empty((0,)), attentions.new_empty(shape)

    torch.library.register_autograd("adet_ext::blend_masks", _backward, setup_context=_setup)
    torch.library.register_autograd("adet_ext::blend_masks_backward", once)


if "blend_masks" in native_operators():
    _register()

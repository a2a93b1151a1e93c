"""The compiled blend operators as PyTorch knows them: shapes for tracing, and gradients.

Importing this registers them, where the library has them; :func:`has_kernel` tells.
"""

import torch

from .extension import kernel_devices
from .floats import sum_dtype

__all__ = ["has_kernel", "SOFTMAX", "AS_IS", "ONE_HOT"]

SOFTMAX, AS_IS, ONE_HOT = 0, 1, 2  # csrc/blend.h, Weighting


_DEVICES = {name: kernel_devices(name) for name in ("blend", "blend_factored", "paste_masks_")}


def has_kernel(name: str, tensor: torch.Tensor) -> bool:
    """Whether the compiled operator serves tensors like this one."""
    return tensor.device.type in _DEVICES[name]


def _once(ctx, *grads):
    raise RuntimeError("the blend operators have no second derivatives")


def _blend_setup(ctx, inputs, output):
    bases, attentions, boxes, image, _, *options = inputs
    ctx.save_for_backward(bases, attentions, boxes, image)
    ctx.options = options


def _blend_backward(ctx, grad):
    need_bases, need_attentions = ctx.needs_input_grad[:2]
    grad_bases, grad_attentions = torch.ops.adet_ext.blend_backward(
        grad, *ctx.saved_tensors, *ctx.options, need_bases, need_attentions, _deterministic()
    )
    need_attentions = need_attentions and ctx.options[-1] != ONE_HOT
    return (grad_bases if need_bases else None, grad_attentions if need_attentions else None, *[None] * 7)


def _factored_setup(ctx, inputs, output):
    *tensors, scale, aligned, weighting = inputs
    ctx.save_for_backward(*tensors)
    ctx.options = (scale, aligned, weighting)


def _factored_backward(ctx, grad):
    need_bases, need_factors = ctx.needs_input_grad[0], any(ctx.needs_input_grad[1:5])
    _, _, sigma, u, _, _, _ = ctx.saved_tensors
    grad_bases, grad_t, along_x, along_y = torch.ops.adet_ext.blend_factored_backward(
        grad, *ctx.saved_tensors, *ctx.options, need_bases, need_factors, _deterministic()
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


def _deterministic() -> bool:
    return torch.are_deterministic_algorithms_enabled()


def _register() -> None:
    fake = torch.library.register_fake
    if _DEVICES["blend"]:

        @fake("adet_ext::blend")
        def _(bases, attentions, boxes, image, size, scale, aligned, nearest, weighting):
            return bases.new_empty((boxes.shape[0], size, size))

        @fake("adet_ext::blend_backward")
        def _(grad, bases, attentions, boxes, image, *options):
            weighting, need_bases, need_attentions, _ = options[-4:]
            need_attentions = need_attentions and weighting != ONE_HOT
            shape = attentions.shape if need_attentions else (0,)
            return torch.empty_like(bases) if need_bases else bases.new_empty((0,)), attentions.new_empty(shape)

        torch.library.register_autograd("adet_ext::blend", _blend_backward, setup_context=_blend_setup)
        torch.library.register_autograd("adet_ext::blend_backward", _once)
    if _DEVICES["blend_factored"]:

        @fake("adet_ext::blend_factored")
        def _(bases, t, sigma, u, v, boxes, image, scale, aligned, weighting):
            return bases.new_empty((boxes.shape[0], u.shape[2], u.shape[2]))

        @fake("adet_ext::blend_factored_backward")
        def _(grad, bases, t, sigma, u, v, boxes, image, scale, aligned, weighting, need_bases, need_factors, _):
            kind = sum_dtype(bases.dtype)
            grad_bases = bases.new_empty(bases.shape if need_bases else (0,))
            if not need_factors:
                return (grad_bases, t.new_empty((0,)), *(t.new_empty((0,), dtype=kind) for _ in range(2)))
            share = (boxes.shape[0], *u.shape)
            return (grad_bases, t.new_empty(t.shape), *(t.new_empty(share, dtype=kind) for _ in range(2)))

        torch.library.register_autograd("adet_ext::blend_factored", _factored_backward, setup_context=_factored_setup)
        torch.library.register_autograd("adet_ext::blend_factored_backward", _once)
    if _DEVICES["paste_masks_"]:

        @fake("adet_ext::paste_masks_")
        def _(out, masks, boxes, threshold):
            return None


_register()

"""The cross-entropy of logits that are resized to their labels, without the resized logits.

N images, C classes; logits of H x W, labels of H' x W'.

PyTorch keeps the resized logits, their logarithms of probabilities and a gradient of either: four times N C H' W'
numbers. The compiled operator keeps one gradient of the size of the logits, which it computes beside the loss. On GPUs,
too, the result is the same each time, which the gradient of ``F.interpolate`` is not.
"""

import torch
from torch.nn import functional as F

from .checks import check_device, check_floating, check_shape, check_type, dtype_name, shape_text
from .extension import native_operators, serves

__all__ = ["resized_cross_entropy", "resized_cross_entropy_reference"]


def resized_cross_entropy(logits: torch.Tensor, labels: torch.Tensor, *, ignored: int = 255) -> torch.Tensor:
    """Return the mean cross-entropy over labeled pixels; 0, with a gradient of 0, where there is none.

    Args:
        logits: (N, C, H, W), resized bilinearly to H' x W' with pixels as areas (``align_corners=False``). Half
            precision is computed in float32.
        labels: (N, H', W') int64: 0 to C - 1, or ``ignored``.

    Returns:
        (), float32, or float64 if the logits are. It has no second derivatives where the compiled operator serves.

    Raises:
        TypeError: an argument is no tensor of its type.
        ValueError: a shape does not fit, or the labels are on another device.
        RuntimeError, IndexError: on a CPU, a label is neither a class nor ``ignored``. On a GPU the loss is NaN then.
    """
    _check(logits, labels)
    logits = logits if logits.dtype == torch.float64 else logits.float()
    if serves("resized_cross_entropy", logits):
        wanted = torch.is_grad_enabled() and logits.requires_grad
        total, _ = torch.ops.adet_ext.resized_cross_entropy(logits, labels, ignored, wanted)
        return total / _labeled(labels, ignored)
    return resized_cross_entropy_reference(logits, labels, ignored=ignored)


def resized_cross_entropy_reference(logits: torch.Tensor, labels: torch.Tensor, *, ignored: int = 255) -> torch.Tensor:
    """Compute :func:`resized_cross_entropy` in plain PyTorch."""
    if labels.shape[1:] != logits.shape[2:]:
        logits = F.interpolate(logits, size=labels.shape[1:], mode="bilinear", align_corners=False)
    return F.cross_entropy(logits, labels, ignore_index=ignored, reduction="sum") / _labeled(labels, ignored)


def _labeled(labels: torch.Tensor, ignored: int) -> torch.Tensor:
    """Return the number of labeled pixels, at least 1."""
    return (labels != ignored).sum().clamp(min=1)


def _check(logits: torch.Tensor, labels: torch.Tensor) -> None:
    check_floating(logits, "logits")
    check_shape(logits, "logits", ("N", "C", "H", "W"))
    check_shape(labels, "labels", (logits.shape[0], "H", "W"))
    check_type(labels, "labels", torch.int64)
    check_device(labels, "labels", logits)
    if labels.numel() and (not logits.numel() or max(logits.shape) >= 2**31 - 1):
        raise ValueError(f"logits must have classes and places, on sides below 2^31; got {shape_text(logits.shape)}")


def _register() -> None:
    @torch.library.register_fake("adet_ext::resized_cross_entropy")
    def _(logits, labels, ignored, gradient):
        _check(logits, labels)
        if logits.dtype not in (torch.float32, torch.float64):
            raise TypeError(f"logits must be float32 or float64; got {dtype_name(logits.dtype)}")
        return logits.new_empty(()), torch.empty_like(logits) if gradient else logits.new_empty(0)

    def setup(ctx, inputs, output):
        ctx.save_for_backward(output[1])
        ctx.mark_non_differentiable(output[1])

    def backward(ctx, grad, _):
        if torch.is_grad_enabled():  # a graph of the gradient would lack what depends on the logits
            raise RuntimeError("resized_cross_entropy has no second derivatives; call backward without create_graph")
        (by_logits,) = ctx.saved_tensors
        return by_logits * grad, None, None, None

    torch.library.register_autograd("adet_ext::resized_cross_entropy", backward, setup_context=setup)


if "resized_cross_entropy" in native_operators():
    _register()

"""Serve Detectron2's deformable convolutions on a CPU, for which it has no kernels."""

import functools
from collections.abc import Callable

from detectron2.layers import deform_conv
from torch import Tensor

from ..utils.deform_conv import deform_conv2d

__all__ = ["serve_cpu"]


def serve_cpu() -> None:
    """Replace the two functions that DeformConv and ModulatedDeformConv call. GPU tensors are handled as before."""
    if hasattr(deform_conv.deform_conv, "__wrapped__"):
        return
    plain, modulated = deform_conv.deform_conv, deform_conv.modulated_deform_conv

    def on_cpu(x: Tensor, offset: Tensor, weight: Tensor, stride, padding, dilation, *groups) -> Tensor:
        return deform_conv2d(x, offset, weight, None, stride, padding, dilation)

    def on_cpu_with_mask(
        x: Tensor, offset: Tensor, mask: Tensor, weight: Tensor, bias, stride, padding, dilation, *groups
    ) -> Tensor:
        return deform_conv2d(x, offset, weight, bias, stride, padding, dilation, mask)

    deform_conv.deform_conv = _by_device(plain, on_cpu)
    deform_conv.modulated_deform_conv = _by_device(modulated, on_cpu_with_mask)


def _by_device(on_gpu: Callable, on_cpu: Callable) -> Callable:
    @functools.wraps(on_gpu, assigned=())
    def choose(x: Tensor, *args) -> Tensor:
        return (on_gpu if x.is_cuda else on_cpu)(x, *args)

    return choose

"""Dynamic rank-1 convolution (thesis 5.4.1, equations 5.2 to 5.4): Conv(X ∘ A) ∘ B.

O output channels, k side of the kernel; other letters as in :mod:`adet_ext.layers`.

The compiled operator multiplies by A and B while it convolves, without a further pass over memory. It computes its own
gradients with the rotated kernel. :func:`dr1_conv_reference` specifies it.
"""

import torch
from torch import nn
from torch.nn import functional as F

from .checks import check_device, check_floating, check_range, check_shape, check_type, dtype_name, shape_text
from .extension import native_operators, serves
from .floats import autocasts

__all__ = ["DR1Conv2d", "dr1_conv", "dr1_conv_reference"]


def dr1_conv(
    x: torch.Tensor,
    a: torch.Tensor | None,
    b: torch.Tensor | None,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    padding: int = 1,
) -> torch.Tensor:
    """Convolve ``x ∘ a`` and multiply the result by ``b``, location by location (equation 5.4).

    The compiled operator is used for 3x3 kernels, channels that are multiples of 16, and channels-last maps: on the CPU
    in float32 and float64; on CUDA up to 64 channels in float16, bfloat16 and TF32. All other calls use PyTorch's
    convolution, which is then faster. Factors may be parts of the channels of one map, as A and B are of C in the
    thesis; they are not copied.

    Args:
        x: (N, C, H, W).
        a: factors of the input, like ``x``; None stands for ones.
        b: factors of the output, like the result; None stands for ones.
        weight: (O, C, k, k), shared by all locations.
        bias: (O,), added before the multiplication by ``b``; None stands for zeros.
        padding: zeros around ``x ∘ a`` on each side; the stride is 1.

    Returns:
        (N, O, H + 2 padding - k + 1, W + 2 padding - k + 1): of the size of ``x`` for k = 3 and padding 1.

    Raises:
        TypeError: an argument is not a floating-point tensor, or does not have the type of ``x``.
        ValueError: a shape does not fit, or a tensor is on another device than ``x``.
    """
    _check(x, a, b, weight, bias, padding)
    if autocasts(x) or not _has_kernel(x, weight, padding):
        return dr1_conv_reference(x, a, b, weight, bias, padding=padding)
    keep = (
        b is not None and b.requires_grad and torch.is_grad_enabled()
    )  # the gradient of b needs the sum before the multiplication
    return torch.ops.adet_ext.dr1_conv(x, a, weight, bias, False, b, None, 2 if keep else 1)[0]


def dr1_conv_reference(
    x: torch.Tensor,
    a: torch.Tensor | None,
    b: torch.Tensor | None,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    padding: int = 1,
) -> torch.Tensor:
    """Compute :func:`dr1_conv` in plain PyTorch."""
    y = F.conv2d(x if a is None else x * a, weight, bias, padding=padding)
    return y if b is None else y * b


class DR1Conv2d(nn.Module):
    """A convolution of stride 1, with weights modulated at each location by the factors of the call.

    Parameters ``weight`` (out_channels, in_channels, kernel_size, kernel_size) and ``bias`` (out_channels,) or None,
    initialized as in :class:`torch.nn.Conv2d`. The padding keeps the size.

    Args:
        in_channels, out_channels: C and O; equal in the thesis.
        kernel_size: side of the kernel, odd.
        bias: whether there is one.
    """

    def __init__(self, in_channels: int, out_channels: int, *, kernel_size: int = 3, bias: bool = True) -> None:
        super().__init__()
        if kernel_size % 2 != 1:
            raise ValueError(f"kernel_size must be odd, which keeps the size of the map; got {kernel_size}")
        self.padding = kernel_size // 2
        like = nn.Conv2d(in_channels, out_channels, kernel_size, bias=bias)
        self.weight, self.bias = like.weight, like.bias

    def forward(self, x: torch.Tensor, a: torch.Tensor | None = None, b: torch.Tensor | None = None) -> torch.Tensor:
        """Map (N, C, H, W), with factors (N, C, H, W) and (N, O, H, W) or None, to (N, O, H, W)."""
        return dr1_conv(x, a, b, self.weight, self.bias, padding=self.padding)

    def extra_repr(self) -> str:
        out_channels, in_channels, side, _ = self.weight.shape
        return f"{in_channels}, {out_channels}, kernel_size={side}, bias={self.bias is not None}"


def _check(x, a, b, weight, bias, padding) -> None:
    # On the coarsest levels a convolution takes 20 microseconds, so only what is necessary is checked.
    check_range(padding, "padding", 0, 2**31 - 1)
    for name, tensor in (("x", x), ("weight", weight), ("a", a), ("b", b), ("bias", bias)):
        if tensor is None and name not in ("x", "weight"):
            continue
        check_floating(tensor, name)
        check_device(tensor, name, x)
        if tensor.dtype != x.dtype and not autocasts(x):
            raise TypeError(f"{name} must be {dtype_name(x.dtype)}, the type of x; got {dtype_name(tensor.dtype)}")
    check_shape(x, "x", ("N", "C", "H", "W"))
    sizes = x.shape
    check_shape(weight, "weight", ("O", sizes[1], "kh", "kw"))
    kernel = weight.shape
    if a is not None:
        check_shape(a, "a", tuple(sizes))
    if bias is not None:
        check_shape(bias, "bias", (kernel[0],))
    height, width = (sizes[axis] + 2 * padding + 1 - kernel[axis] for axis in (2, 3))
    if min(*kernel[2:]) < 1 or height < 1 or width < 1:
        # If the kernel keeps the size, a map without locations has a result without locations.
        if min(*kernel[2:]) < 1 or height < 0 or width < 0 or min(sizes[2:]) > 0:
            raise ValueError(f"weight must have a kernel that fits into x with its padding; got {shape_text(kernel)}")
    if b is not None:
        check_shape(b, "b", (sizes[0], kernel[0], height, width))


def _has_kernel(x: torch.Tensor, weight: torch.Tensor, padding: int) -> bool:
    """Whether the compiled operator supports these arguments and is the faster one."""
    outputs, channels, height, width = weight.shape
    if not serves("dr1_conv", x) or padding != 1 or height != 3 or width != 3 or outputs % 16 or channels % 16:
        return False
    if x.stride(1) != 1 or channels == 0:
        return False
    if x.device.type != "cuda":
        # On small maps the transform of the weights takes most of the time.
        images, _, height, width = x.shape
        return x.dtype in (torch.float32, torch.float64) and images * height * width >= 192
    # With more channels, the tensor cores take so long that the passes for the factors do not matter.
    return max(outputs, channels) <= 64 and _on_tensor_cores(x.device.index or 0, x.dtype)


@torch.compiler.assume_constant_result
def _on_tensor_cores(device: int, dtype: torch.dtype) -> bool:
    """Whether PyTorch's convolution of this type runs on tensor cores. float32 does if TF32 is allowed."""
    if dtype == torch.float32 and not _allows_tf32():
        return False
    types = (torch.float16, torch.bfloat16, torch.float32)
    return dtype in types and torch.cuda.get_device_capability(device) >= (8, 0)


def _allows_tf32() -> bool:
    """Whether cuDNN's convolutions of float32 may use TF32.

    ``allow_tf32`` raises RuntimeError if a program has set ``fp32_precision``, which then has the answer.
    """
    try:
        return torch.backends.cudnn.allow_tf32
    except RuntimeError:
        return torch.backends.cudnn.conv.fp32_precision == "tf32"


def _fake(x, before, weight, bias, turned, after, after2, results):
    check_floating(x, "x")
    check_shape(x, "x", ("N", "C", "H", "W"))
    if x.device.type == "cpu" and x.dtype not in (torch.float32, torch.float64) and x.numel() > 0:
        raise TypeError(f"x must be float32 or float64 on a CPU; got {dtype_name(x.dtype)}")
    images, channels, *sizes = x.shape
    check_shape(weight, "weight", (channels, "O", 3, 3) if turned else ("O", channels, 3, 3))
    outputs = weight.shape[1 if turned else 0]
    for tensor, name, shape in (
        (weight, "weight", tuple(weight.shape)),
        (before, "before", tuple(x.shape)),
        (after, "after", (images, outputs, *sizes)),
        (after2, "after2", (images, outputs, *sizes)),
        (bias, "bias", (outputs,)),
    ):
        if tensor is not None:
            check_shape(tensor, name, shape)
            check_type(tensor, name, x.dtype)
            check_device(tensor, name, x)
    check_range(results, "results", 1, 2)
    if channels % 16 or outputs % 16 or channels == 0:
        got = shape_text(weight.shape)
        raise ValueError(f"weight must have channels by the 16 and some of the input; got {got}")
    options = {"dtype": x.dtype, "device": x.device, "memory_format": torch.channels_last}
    counts = images, images if results == 2 else 0
    return tuple(torch.empty((n, outputs, *sizes), **options) for n in counts)


def _save(ctx, inputs, output) -> None:
    x, before, weight, bias, turned, after, after2, results = inputs
    if turned or after2 is not None:
        # The gradient of a gradient, which nothing here needs.
        raise RuntimeError("dr1_conv has no second derivatives")
    ctx.has_bias = bias is not None
    ctx.save_for_backward(x, before, weight, after, output[1])
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)


def _gradients(ctx, grad, _):
    """Return the gradients of x, a, weight and b in equation 5.4. ``c`` is Conv(X ∘ A) + bias."""
    if grad is None:
        return (None,) * 8
    x, a, weight, b, c = ctx.saved_tensors
    needs_x, needs_a, needs_weight, needs_bias, _, needs_b, *_ = ctx.needs_input_grad
    grad_x = grad_a = grad_weight = grad_bias = None
    with torch.no_grad():
        turned = torch.ops.adet_ext.dr1_conv
        if needs_a:
            grad_x, grad_a = turned(grad, b, weight, None, True, a, x, 2)
        elif needs_x:
            grad_x, _ = turned(grad, b, weight, None, True, a, None, 1)
        if needs_weight or needs_bias:
            grad_c = grad if b is None else grad * b
            if needs_weight:
                needs = [False, True, needs_bias]
                sides = [1, 1], [1, 1], [1, 1], False, [0, 0], 1
                _, grad_weight, grad_bias = torch.ops.aten.convolution_backward(
                    grad_c, x if a is None else x * a, weight, [weight.shape[0]], *sides, needs
                )
            else:
                grad_bias = grad_c.sum(dim=(0, 2, 3))
        grad_b = grad * c if needs_b else None
    return grad_x if needs_x else None, grad_a, grad_weight, grad_bias if needs_bias else None, None, grad_b, None, None


if "dr1_conv" in native_operators():
    torch.library.register_fake("adet_ext::dr1_conv", _fake)
    torch.library.register_autograd("adet_ext::dr1_conv", _gradients, setup_context=_save)

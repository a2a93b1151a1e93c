"""Dynamic rank-1 convolution (thesis 5.4.1, equations 5.2 to 5.4): Conv(X ∘ A) ∘ B.

N images, C input channels, O output channels, H x W locations, k side of the kernel.

The compiled operator multiplies by A and B while it convolves, so that they cost no pass over memory. With the kernel
turned it computes its own gradients. See :func:`dr1_conv2d_reference` for what it computes.
"""

import torch
from torch import nn
from torch.nn import functional as F

from .extension import kernel_devices
from .floats import FLOATS

__all__ = ["DR1Conv2d", "dr1_conv2d", "dr1_conv2d_reference"]

_DEVICES = kernel_devices("dr1_conv")


def dr1_conv2d(
    x: torch.Tensor,
    a: torch.Tensor | None,
    b: torch.Tensor | None,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    padding: int = 1,
) -> torch.Tensor:
    """Convolve ``x ∘ a`` and multiply the result by ``b``, location by location (equation 5.4).

    Fast for 3x3 kernels, channels by the 16, and channels-last maps: in float32 and float64 on the CPU; up to 64
    channels in float16, bfloat16 and TF32 on CUDA. Factors may be parts of the channels of one map, as A and B are of
    C in the thesis, without being copied. All else goes through PyTorch's convolution, the faster one then or the only.

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
        TypeError: an argument is not a tensor of real numbers in floating point, or not of the type of ``x``.
        ValueError: a shape does not fit, or a tensor lies on another device than ``x``.
    """
    _check(x, a, b, weight, bias, padding)
    if torch.is_autocast_enabled(x.device.type) or not _has_kernel(x, weight, padding):
        return dr1_conv2d_reference(x, a, b, weight, bias, padding=padding)
    keep = b is not None and b.requires_grad and torch.is_grad_enabled()  # its gradient takes the sum before it
    return torch.ops.adet_ext.dr1_conv(x, a, weight, bias, False, b, None, 2 if keep else 1)[0]


def dr1_conv2d_reference(
    x: torch.Tensor,
    a: torch.Tensor | None,
    b: torch.Tensor | None,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    padding: int = 1,
) -> torch.Tensor:
    """What :func:`dr1_conv2d` computes, in plain PyTorch."""
    y = F.conv2d(x if a is None else x * a, weight, bias, padding=padding)
    return y if b is None else y * b


class DR1Conv2d(nn.Module):
    """A convolution of stride 1 whose weights are modulated at each location by the factors it is called with.

    Parameters ``weight`` (out_channels, in_channels, kernel_size, kernel_size) and ``bias`` (out_channels,) or None,
    initialised as in :class:`torch.nn.Conv2d`. The padding keeps the size.

    Args:
        in_channels, out_channels: C and O; equal in the thesis.
        kernel_size: side of the kernel, odd.
        bias: whether there is one.
    """

    def __init__(self, in_channels: int, out_channels: int, *, kernel_size: int = 3, bias: bool = True) -> None:
        super().__init__()
        if kernel_size % 2 != 1:
            raise ValueError(f"kernel_size is {kernel_size}; it takes an odd number, which keeps the map's size")
        self.padding = kernel_size // 2
        like = nn.Conv2d(in_channels, out_channels, kernel_size, bias=bias)
        self.weight, self.bias = like.weight, like.bias

    def forward(self, x: torch.Tensor, a: torch.Tensor | None = None, b: torch.Tensor | None = None) -> torch.Tensor:
        """(N, C, H, W), factors (N, C, H, W) and (N, O, H, W) or None -> (N, O, H, W)."""
        return dr1_conv2d(x, a, b, self.weight, self.bias, padding=self.padding)

    def extra_repr(self) -> str:
        out_channels, in_channels, side, _ = self.weight.shape
        return f"{in_channels}, {out_channels}, kernel_size={side}, bias={self.bias is not None}"


def _check(x, a, b, weight, bias, padding) -> None:
    # On the coarsest levels a convolution takes 20 microseconds; hence no more is looked at than has to be.
    for name, tensor in (("x", x), ("weight", weight), ("a", a), ("b", b), ("bias", bias)):
        if tensor is None and name not in ("x", "weight"):
            continue
        if not isinstance(tensor, torch.Tensor) or tensor.dtype not in FLOATS:
            kind = tensor.dtype if isinstance(tensor, torch.Tensor) else type(tensor).__name__
            raise TypeError(f"{name} is {kind}; it takes a tensor of floating-point numbers")
        if tensor.device != x.device:
            raise ValueError(f"{name} lies on {tensor.device}, x on {x.device}; they have to lie together")
        if tensor.dtype != x.dtype and not torch.is_autocast_enabled(x.device.type):
            raise TypeError(f"{name} is {tensor.dtype}, x is {x.dtype}; they have to be of one type")
    sizes, kernel = x.shape, weight.shape
    if len(sizes) != 4 or len(kernel) != 4:
        raise ValueError(f"x and weight take 4 dimensions; they have {len(sizes)} and {len(kernel)}")
    if kernel[1] != sizes[1]:
        raise ValueError(f"weight is for {kernel[1]} input channels; x has {sizes[1]}")
    if a is not None and a.shape != sizes:
        raise ValueError(f"a is {tuple(a.shape)}; it takes the shape of x, {tuple(sizes)}")
    if bias is not None and bias.shape != kernel[:1]:
        raise ValueError(f"bias is {tuple(bias.shape)}; it takes one value an output channel, {kernel[0]}")
    if b is not None:
        more = 2 * padding + 1
        result = (sizes[0], kernel[0], sizes[2] + more - kernel[2], sizes[3] + more - kernel[3])
        if b.shape != result:
            raise ValueError(f"b is {tuple(b.shape)}; it takes the shape of the result, {result}")


def _has_kernel(x: torch.Tensor, weight: torch.Tensor, padding: int) -> bool:
    """Whether the compiled operator takes this, and is the faster one."""
    device = x.device.type
    outputs, channels, height, width = weight.shape
    if device not in _DEVICES or padding != 1 or height != 3 or width != 3 or outputs % 16 or channels % 16:
        return False
    if x.stride(1) != 1 or channels == 0:
        return False
    if device == "cpu":
        # On small maps it is the transform of the weights that takes the time.
        images, _, height, width = x.shape
        return x.dtype in (torch.float32, torch.float64) and images * height * width >= 192
    # Wider ones keep the tensor cores busy enough for the factors' passes not to matter.
    return max(outputs, channels) <= 64 and _on_tensor_cores(x.device.index or 0, x.dtype)


@torch.compiler.assume_constant_result
def _on_tensor_cores(device: int, dtype: torch.dtype) -> bool:
    """Whether PyTorch's own convolution of this type would run on tensor cores: float32 does where TF32 is allowed."""
    if dtype == torch.float32 and not torch.backends.cudnn.allow_tf32:
        return False
    types = (torch.float16, torch.bfloat16, torch.float32)
    return dtype in types and torch.cuda.get_device_capability(device) >= (8, 0)


def _fake(x, before, weight, bias, turned, after, after2, results):
    outputs = weight.shape[1 if turned else 0]
    options = {"dtype": x.dtype, "device": x.device, "memory_format": torch.channels_last}
    images = x.shape[0], x.shape[0] if results == 2 else 0
    return tuple(torch.empty((n, outputs, *x.shape[2:]), **options) for n in images)


def _save(ctx, inputs, output) -> None:
    x, before, weight, bias, turned, after, after2, results = inputs
    if turned or after2 is not None:
        # The gradient of a gradient; nothing here needs it.
        raise RuntimeError("dr1_conv has no second derivatives")
    ctx.has_bias = bias is not None
    ctx.save_for_backward(x, before, weight, after, output[1])
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)


def _gradients(ctx, grad, _):
    """(x, a, weight, b) of equation 5.4 from the gradient of its result; c is Conv(X ∘ A) + bias."""
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


if _DEVICES:
    torch.library.register_fake("adet_ext::dr1_conv", _fake)
    torch.library.register_autograd("adet_ext::dr1_conv", _gradients, setup_context=_save)

"""Dynamic rank-1 convolution (thesis 5.4.1, equations 5.2 to 5.4): Conv(X ∘ A) ∘ B.

N images, C input channels, O output channels, H x W locations, k side of the kernel.
"""

import torch
from torch import nn
from torch.nn import functional as F

__all__ = ["DR1Conv2d", "dr1_conv2d"]


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
        TypeError: an argument is not a tensor of floats, or not of the type of ``x``.
        ValueError: a shape does not fit, or a tensor lies on another device than ``x``.
    """
    _check(x, a, b, weight, bias, padding)
    y = F.conv2d(x if a is None else x * a, weight, bias, padding=padding)
    return y if b is None else y * b


class DR1Conv2d(nn.Module):
    """A 3x3 convolution of stride 1 whose weights are modulated at each location by the factors it is called with.

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

    def forward(
        self, x: torch.Tensor, a: torch.Tensor | None = None, b: torch.Tensor | None = None
    ) -> torch.Tensor:
        """(N, C, H, W), factors (N, C, H, W) and (N, O, H, W) or None -> (N, O, H, W)."""
        return dr1_conv2d(x, a, b, self.weight, self.bias, padding=self.padding)

    def extra_repr(self) -> str:
        out_channels, in_channels, side, _ = self.weight.shape
        return f"{in_channels}, {out_channels}, kernel_size={side}, bias={self.bias is not None}"


def _check(x, a, b, weight, bias, padding) -> None:
    if x.dim() != 4 or weight.dim() != 4:
        raise ValueError(f"x and weight take 4 dimensions; they have {x.dim()} and {weight.dim()}")
    if weight.shape[1] != x.shape[1]:
        raise ValueError(f"weight is for {weight.shape[1]} input channels; x has {x.shape[1]}")
    if a is not None and a.shape != x.shape:
        raise ValueError(f"a is {tuple(a.shape)}; it takes the shape of x, {tuple(x.shape)}")
    size = [side + 2 * padding - kernel + 1 for side, kernel in zip(x.shape[2:], weight.shape[2:])]
    result = (x.shape[0], weight.shape[0], *size)
    if b is not None and tuple(b.shape) != result:
        raise ValueError(f"b is {tuple(b.shape)}; it takes the shape of the result, {result}")

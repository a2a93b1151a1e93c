"""Convolutions with norm and activation, plain and deformable.

N images, C channels, H and W height and width, k positions of a kernel, g offset groups.

In evaluation without gradients, the batch norm is folded into the weights, which saves a pass over memory.
The folded weights are kept, outside the state dict, until their sources change.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from ....utils.deform_conv import deform_conv2d
from .norm import FrozenBatchNorm2d, NaiveSyncBatchNorm

_FOLDABLE = (FrozenBatchNorm2d, nn.BatchNorm2d, nn.SyncBatchNorm, NaiveSyncBatchNorm)


class _Folding(nn.Module):
    """A mixin that applies norm and activation; it needs ``weight``, ``bias``, ``norm`` and ``activation``."""

    _folded: tuple | None = None

    def _apply_conv(self, convolve: Callable[[Tensor, Tensor | None], Tensor]) -> Tensor:
        """Apply ``convolve(weight, bias)``, then the norm and the activation."""
        if torch.is_grad_enabled() or torch.compiler.is_compiling() or torch.jit.is_tracing():
            x = convolve(self.weight, self.bias)
            return self._activate(x if self.norm is None else self.norm(x))
        if self._is_foldable():
            x = convolve(*self._folded_weights())
        else:
            self._folded = None
            x = convolve(self.weight, self.bias)
            x = x if self.norm is None else self.norm(x)
        # Nothing else uses the sum, and no backward pass needs it.
        return F.relu_(x) if self.activation is F.relu else self._activate(x)

    def _activate(self, x: Tensor) -> Tensor:
        return x if self.activation is None else self.activation(x)

    def _is_foldable(self) -> bool:
        norm = self.norm
        # Exact types, because a subclass may compute something else. Hooks need the norm to be called.
        return (
            type(norm) in _FOLDABLE
            and norm.running_mean is not None
            and not (norm.training and type(norm) is not FrozenBatchNorm2d)
            and not (norm._forward_hooks or norm._forward_pre_hooks)
            # Tensors made in inference mode do not count their changes.
            and not any(t.is_inference() for t in self._fold_sources() if t is not None)
        )

    def _fold_sources(self) -> tuple[Tensor | None, ...]:
        norm = self.norm
        return (self.weight, self.bias, norm.weight, norm.bias, norm.running_mean, norm.running_var)

    def _folded_weights(self) -> tuple[Tensor, Tensor]:
        sources = self._fold_sources()
        state = [None if t is None else (t.data_ptr(), t._version, t.dtype, t.device) for t in sources]
        state.append(self.norm.eps)
        kept = self._folded  # read once: another thread may change it
        if kept is None or kept[0] != state:
            with torch.inference_mode(False), torch.no_grad():
                folded = _fold(*sources, self.norm.eps)
            # The aliases prevent another tensor from getting the same address.
            aliases = [None if t is None else t.detach() for t in sources]
            self._folded = kept = (state, folded, aliases)
        return kept[1]

    # Writing through `.data` does not raise the version counter, so a change of mode drops the cache.
    def train(self, mode: bool = True) -> "_Folding":
        self._folded = None
        return super().train(mode)

    def _apply(self, *args, **kwargs):
        self._folded = None
        return super()._apply(*args, **kwargs)

    def __getstate__(self) -> dict:
        state = self.__dict__.copy()
        state.pop("_folded", None)
        return state


def _fold(
    weight: Tensor,
    bias: Tensor | None,
    scale: Tensor | None,
    shift: Tensor | None,
    mean: Tensor,
    var: Tensor,
    eps: float,
) -> tuple[Tensor, Tensor]:
    factor = (var.float() + eps).rsqrt()
    if scale is not None:
        factor = factor * scale
    offset = -mean if bias is None else bias - mean
    offset = offset * factor
    if shift is not None:
        offset = offset + shift
    return (weight * factor[:, None, None, None]).to(weight.dtype), offset.to(weight.dtype)


class Conv2d(_Folding, nn.Conv2d):
    """``nn.Conv2d`` followed by ``norm`` and ``activation``, both optional."""

    def __init__(
        self, *args, norm: nn.Module | None = None, activation: Callable[[Tensor], Tensor] | None = None, **kwargs
    ):
        super().__init__(*args, **kwargs)
        self.norm = norm
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        return self._apply_conv(
            lambda weight, bias: F.conv2d(x, weight, bias, self.stride, self.padding, self.dilation, self.groups)
        )


class _DeformBase(_Folding, torchvision.ops.DeformConv2d):
    """Arguments are those of ``nn.Conv2d``, ``norm`` and ``activation``. The offsets determine their groups."""

    def __init__(
        self,
        *args,
        deformable_groups: int = 1,
        bias: bool = False,
        norm: nn.Module | None = None,
        activation: Callable[[Tensor], Tensor] | None = None,
        **kwargs,
    ):
        super().__init__(*args, bias=bias, **kwargs)
        self.deformable_groups = deformable_groups
        self.norm = norm
        self.activation = activation

    def reset_parameters(self) -> None:
        nn.init.kaiming_uniform_(self.weight, nonlinearity="relu")
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def _deform(self, x: Tensor, offset: Tensor, mask: Tensor | None) -> Tensor:
        if x.shape[0] == 0:  # torchvision's operator does not support an empty batch
            size = F.conv2d(x, self.weight, None, self.stride, self.padding, self.dilation, self.groups)
            return self._apply_conv(lambda weight, bias: size)
        return self._apply_conv(
            lambda weight, bias: deform_conv2d(x, offset, weight, bias, self.stride, self.padding, self.dilation, mask)
        )


class DeformConv(_DeformBase):
    """Deformable convolution (version 1): every kernel position samples at its offset."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        if self.bias is not None:
            raise AssertionError("DeformConv has no bias; ModulatedDeformConv may have one")

    def forward(self, x: Tensor, offset: Tensor) -> Tensor:
        """``x`` (N, C, H, W); ``offset`` (N, 2gk, H', W'), pairs (dy, dx) per kernel position, in pixels."""
        return self._deform(x, offset, None)


class ModulatedDeformConv(_DeformBase):
    """Deformable convolution (version 2): a mask weights every sample. It has a bias by default."""

    def __init__(self, *args, bias: bool = True, **kwargs):
        super().__init__(*args, bias=bias, **kwargs)

    def forward(self, x: Tensor, offset: Tensor, mask: Tensor) -> Tensor:
        """``x`` (N, C, H, W), ``offset`` (N, 2gk, H', W') as pairs (dy, dx), ``mask`` (N, gk, H', W')."""
        return self._deform(x, offset, mask)

"""Anti-aliased strided convolution as a layer (thesis 3.3.2, equation 3.4).

N images, C input and O output channels, H' x W' size of the convolution at stride 1, s stride.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..d2.layers import FrozenBatchNorm2d
from .blur_compose import METHODS, blur_conv2d, fold_kernel
from .blur_pool import BlurPool2d

__all__ = ["METHODS", "BlurConv2d", "blur_conv2d", "fold_kernel"]


class BlurConv2d(nn.Conv2d):
    """Equation 3.4 as a layer: convolution, blur, then optionally ``norm`` and ``activation``.

    The parameters are those of the strided convolution that it replaces (``weight``, ``bias``, ``norm.*``). The state
    dict has the same keys and shapes, so weights trained without the blur load. In evaluation without gradients, a
    batch norm with fixed statistics is folded into the weights, and the result is kept until anything changes.

    Args:
        stride: s, of the blur. The attribute ``stride`` is that of the convolution, (1, 1).
        taps, blur_padding: see :func:`~.blur_pool.blur_pool`.
        method: see :func:`blur_conv2d`.
        norm, activation: as in Detectron2's ``Conv2d``.
        others: as in ``nn.Conv2d``, with a padding of zeros.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        *,
        stride: int = 2,
        taps: int = 3,
        blur_padding: str = "reflect",
        method: str = "auto",
        norm: nn.Module | None = None,
        activation: Callable[[Tensor], Tensor] | None = None,
        **kwargs,
    ):
        super().__init__(in_channels, out_channels, kernel_size, **kwargs)
        if isinstance(self.padding, str) or self.padding_mode != "zeros":
            raise ValueError(
                f"padding must be numbers, and padding_mode zeros; got {self.padding!r} and {self.padding_mode}"
            )
        if method not in METHODS:
            raise ValueError(f"method must be one of {', '.join(METHODS)}; got {method!r}")
        self.blur = BlurPool2d(taps=taps, stride=stride, padding=blur_padding)
        self.method = method
        self.norm = norm
        self.activation = activation
        self._kept: tuple | None = None

    @classmethod
    def from_conv(
        cls, conv: nn.Conv2d, *, taps: int = 3, blur_padding: str = "reflect", method: str = "auto"
    ) -> "BlurConv2d":
        """Return the layer that replaces a strided convolution and shares its parameters, norm and activation."""
        if conv.stride[0] != conv.stride[1]:
            raise ValueError(f"stride must be the same in both directions; got {conv.stride}")
        layer = cls(
            conv.in_channels,
            conv.out_channels,
            conv.kernel_size,
            stride=conv.stride[0],
            taps=taps,
            blur_padding=blur_padding,
            method=method,
            norm=getattr(conv, "norm", None),
            activation=getattr(conv, "activation", None),
            padding=conv.padding,
            dilation=conv.dilation,
            groups=conv.groups,
            bias=conv.bias is not None,
            padding_mode=conv.padding_mode,
            device="meta",
        )
        layer.weight, layer.bias = conv.weight, conv.bias
        return layer.train(conv.training)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, O, ceil(H' / s), ceil(W' / s))."""
        if torch.is_grad_enabled() or torch.compiler.is_compiling() or torch.jit.is_tracing():
            weight, bias, kernel, norm = self.weight, self.bias, None, self.norm
        else:
            weight, bias, kernel = self._prepared()
            norm = None if self._is_norm_folded() else self.norm
        x = blur_conv2d(
            x,
            weight,
            bias,
            stride=self.blur.stride,
            taps=self.blur.taps,
            blur_padding=self.blur.padding,
            padding=self.padding,
            dilation=self.dilation,
            groups=self.groups,
            method=self.method,
            kernel=kernel,
        )
        x = x if norm is None else norm(x)
        return x if self.activation is None else self.activation(x)

    def _is_norm_folded(self) -> bool:
        norm = self.norm
        # Exact types, because a subclass may compute something else. Hooks need the norm to be called.
        frozen = type(norm) is FrozenBatchNorm2d
        return (
            (frozen or type(norm) in (nn.BatchNorm2d, nn.SyncBatchNorm) and not norm.training)
            and norm.running_mean is not None
            and self.blur.padding != "zeros"
            and not (norm._forward_hooks or norm._forward_pre_hooks)
        )

    def _prepared(self) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Return weight and bias with the norm folded in, and the folded kernel if it is needed."""
        fold = self._is_norm_folded()
        sources = [self.weight, self.bias]
        if fold:
            norm = self.norm
            sources += [norm.weight, norm.bias, norm.running_mean, norm.running_var]
        if not fold and self.method != "folded":
            return self.weight, self.bias, None
        if any(t is not None and t.is_inference() for t in sources):  # these do not count their changes
            return self._fold(sources)
        state = [None if t is None else (t.data_ptr(), t._version, t.dtype, t.device) for t in sources]
        kept = self._kept  # read once: another thread may change it
        if kept is None or kept[0] != state:
            with torch.inference_mode(False), torch.no_grad():
                # The sources are kept, so that no other tensor gets their memory.
                self._kept = kept = (state, self._fold(sources), [None if t is None else t.detach() for t in sources])
        return kept[1]

    def _fold(self, sources: list[Tensor | None]) -> tuple[Tensor, Tensor | None, Tensor | None]:
        weight, bias = sources[:2]
        if len(sources) > 2:
            scale, shift, mean, var = sources[2:]
            factor = (var.float() + self.norm.eps).rsqrt()
            factor = factor if scale is None else factor * scale
            offset = (-mean if bias is None else bias - mean) * factor
            offset = offset if shift is None else offset + shift
            weight, bias = (weight * factor[:, None, None, None]).to(weight.dtype), offset.to(weight.dtype)
        return weight, bias, fold_kernel(weight, self.blur.taps) if self.method == "folded" else None

    # Writing through `.data` does not raise the version counter, so a change of mode drops what is kept.
    def train(self, mode: bool = True) -> "BlurConv2d":
        self._kept = None
        return super().train(mode)

    def _apply(self, *args, **kwargs):
        self._kept = None
        return super()._apply(*args, **kwargs)

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_kept": None}

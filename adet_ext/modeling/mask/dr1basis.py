"""DR1Basis (thesis 5.4.2, equation 5.6): an inverted pyramid of dynamic rank-1 convolutions.

N images, D its width, H_l x W_l the map of level l, s the stride of the finest level.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import nn
from torch.nn import functional as F

from ...d2.config import configurable
from ...d2.layers import ShapeSpec, get_norm
from ...layers.aligned_upsample import aligned_upsample
from ...layers.dr1_conv import DR1Conv2d
from .bases import BASIS_MODULE_REGISTRY, BasisModule, conv_norm_relu
from .top_layer import Context

__all__ = ["DR1Basis"]


@BASIS_MODULE_REGISTRY.register()
class DR1Basis(BasisModule):
    """F_l = DR1Conv(Conv3x3(P_l) + up2(F_{l+1})) from the coarsest level down, F of the one above it being zero; the
    last is enlarged by two once more.

    Both convolutions are followed by a norm and a ReLU, as those of BlendMask's bottom module are; the factor B stands
    before the norm, as part of the convolution. A level that FCOS does not have, finer than its own, has no contexts:
    there the convolution is static.
    """

    @configurable
    def __init__(self, *, width: int, upsampling: str = "aligned", **common):
        """
        Args:
            width: D.
            upsampling: "aligned", in step with strided convolutions, or "resize", to the size of the finer level.
            common: see :class:`BasisModule`; ``channels`` is the width of the auxiliary semantic head.
        """
        super().__init__(**common)
        if upsampling not in ("aligned", "resize"):
            raise ValueError(f"MODEL.DR1MASK.UPSAMPLING is {upsampling!r}; it can be aligned or resize")
        input_shape, norm = common["input_shape"], common["norm"]
        strides = [input_shape[name].stride for name in self.in_features]
        if any(coarse != 2 * fine for fine, coarse in zip(strides, strides[1:])):
            raise ValueError(
                f"MODEL.BASIS_MODULE.IN_FEATURES names {self.in_features} of strides {strides}; DR1Basis goes each to "
                "the next by a factor of two"
            )
        self.width = width
        self.upsampling = upsampling
        self.stride = strides[0] // 2
        self.reduce = nn.ModuleList(
            [conv_norm_relu(input_shape[name].channels, width, norm=norm) for name in self.in_features]
        )
        self.merge = nn.ModuleList([DR1Conv2d(width, width, bias=not norm) for _ in self.in_features])
        self.finish = nn.ModuleList(
            [nn.Sequential(*([get_norm(norm, width)] if norm else []), nn.ReLU()) for _ in self.in_features]
        )
        for merge in self.merge:
            nn.init.kaiming_uniform_(merge.weight, a=1)
            if merge.bias is not None:
                nn.init.zeros_(merge.bias)

    @classmethod
    def from_config(cls, cfg, input_shape: dict[str, ShapeSpec]) -> dict:
        dr1 = cfg.MODEL.DR1MASK
        return {"width": dr1.WIDTH, "upsampling": dr1.UPSAMPLING, **cls.common_arguments(cfg, input_shape)}

    def forward(self, features: Mapping[str, torch.Tensor], contexts: Mapping[str, Context]) -> torch.Tensor:
        """
        Args:
            features: the levels by name, (N, C, H_l, W_l).
            contexts: A and B of the levels that have them, by name.

        Returns:
            (N, D, 2 H_l, 2 W_l) for the finest l, at half its stride. Where H_l is rounded up, the last row is of no
            pixel, and nobody reads it.
        """
        merged = None
        for name, reduce, merge, finish in list(zip(self.in_features, self.reduce, self.merge, self.finish))[::-1]:
            x = reduce(features[name])
            if merged is not None:
                x = x + self._enlarge(merged, x.shape[-2:])
            merged = finish(merge(x, *contexts.get(name, (None, None))))
        bases = self._enlarge(merged, [2 * length for length in merged.shape[-2:]])
        return bases.contiguous(memory_format=torch.channels_last)

    def _enlarge(self, x: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
        if self.upsampling == "aligned":
            return aligned_upsample(x, size)
        return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=False)

"""DR1Basis (thesis 5.4.2, equation 5.6): an inverted pyramid of dynamic rank-1 convolutions.

N images, C_in channels of the levels, C its width, H_l x W_l the map of level l, s the stride of the finest level.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import nn
from torch.nn import functional as F

from ...d2.config import configurable
from ...d2.layers import ShapeSpec, get_norm
from ...layers.aligned_upsample import aligned_upsample
from ...layers.dr1_conv import DR1Conv2d
from ..checks import check_choice
from .bases import BASIS_MODULE_REGISTRY, BasisModule, conv_norm_relu
from .top_layer import Context

__all__ = ["DR1Basis"]


@BASIS_MODULE_REGISTRY.register()
class DR1Basis(BasisModule):
    """F_l = DR1Conv(Conv3x3(P_l) + up2(F_{l+1})) from the coarsest level, without the second term, to the finest, whose
    result is upsampled by two.

    A norm and a ReLU follow both convolutions, as in BlendMask's bottom module; the factor B comes before the norm, as
    part of the convolution. Levels finer than those of FCOS have no contexts; their convolution is static.
    """

    @configurable
    def __init__(self, *, width: int, upsampling: str = "aligned", **common):
        """
        Args:
            width: C.
            upsampling: "aligned", in step with strided convolutions, or "resize", to the size of the finer level.
            common: see :class:`BasisModule`; ``channels`` is the width of the auxiliary semantic head.
        """
        super().__init__(**common)
        check_choice("MODEL.DR1MASK.UPSAMPLING", upsampling, ("aligned", "resize"))
        input_shape, norm = common["input_shape"], common["norm"]
        strides = [input_shape[name].stride for name in self.in_features]
        if any(coarse != 2 * fine for fine, coarse in zip(strides, strides[1:])):
            raise ValueError(
                "MODEL.BASIS_MODULE.IN_FEATURES must double the stride from each feature to the next for DR1Basis; got "
                f"{self.in_features} of strides {strides}"
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
            features: the levels by name, (N, C_in, H_l, W_l).
            contexts: A and B of the levels that have them, by name.

        Returns:
            (N, C, 2 H_l, 2 W_l) for the finest l, at half its stride. If H_l is rounded up, the last row covers no
            pixel and is not read.
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

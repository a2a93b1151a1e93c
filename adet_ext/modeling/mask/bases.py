"""Bottom modules: they predict the bases from the pyramid (thesis 4.3.1; the choices of Tables 4.4 and 4.7).

N images, K bases, s the stride of the bases.
"""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from ...d2.config import configurable
from ...d2.layers import Conv2d, ShapeSpec, get_norm
from ...d2.utils import Registry
from ..checks import check_features
from .mask_targets import thing_labels

__all__ = ["BASIS_MODULE_REGISTRY", "build_basis_module", "BasisModule", "ProtoNet", "DeepLabV3Plus"]

BASIS_MODULE_REGISTRY = Registry("BASIS_MODULE")
BASIS_MODULE_REGISTRY.__doc__ = "Modules that map a dict of features to bases (N, K, H / s, W / s)."


def build_basis_module(cfg, input_shape: dict[str, ShapeSpec]) -> "BasisModule":
    """Build the module that ``cfg.MODEL.BASIS_MODULE.NAME`` names."""
    return BASIS_MODULE_REGISTRY.get(cfg.MODEL.BASIS_MODULE.NAME)(cfg, input_shape)


def conv_norm_relu(in_channels: int, out_channels: int, *, kernel_size: int = 3, dilation: int = 1, norm: str):
    """Return convolution, normalization, ReLU, named ``0``, ``1``, ``2`` as in AdelaiDet."""
    conv = Conv2d(
        in_channels,
        out_channels,
        kernel_size=kernel_size,
        padding=dilation * (kernel_size // 2),
        dilation=dilation,
        bias=not norm,
    )
    nn.init.kaiming_uniform_(conv.weight, a=1)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    norm_layer = [get_norm(norm, out_channels)] if norm else []
    return nn.Sequential(conv, *norm_layer, nn.ReLU(inplace=True))


def resize_like(x: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """Interpolate bilinearly to the reference's height and width."""
    return F.interpolate(x, size=reference.shape[-2:], mode="bilinear", align_corners=False)


class BasisModule(nn.Module):
    """Base of the bottom modules: their input and the auxiliary semantic loss on things (section 4.4.1)."""

    def __init__(
        self,
        *,
        in_features: Sequence[str],
        input_shape: dict[str, ShapeSpec],
        channels: int,
        norm: str,
        num_classes: int | None,
        loss_weight: float,
        common_stride: int,
    ):
        """
        Args:
            in_features: names of the features that are read, finest first.
            channels: width of the module.
            num_classes: foreground classes of the auxiliary loss; None: no such loss.
            common_stride: stride of the finest feature, at which the auxiliary loss is taken.

        Raises:
            ValueError: there is an auxiliary loss, and the finest feature has another stride.
        """
        super().__init__()
        check_features("MODEL.BASIS_MODULE.IN_FEATURES", in_features, input_shape)
        self.in_features = list(in_features)
        self.loss_weight = loss_weight
        self.common_stride = common_stride
        self.loss_on = num_classes is not None
        if self.loss_on:
            stride = input_shape[self.in_features[0]].stride
            if stride not in (None, common_stride):
                raise ValueError(
                    f"MODEL.BASIS_MODULE.COMMON_STRIDE must be the stride of {self.in_features[0]}, the first of "
                    f"IN_FEATURES, with LOSS_ON; got {common_stride}. Set it to {stride}"
                )
            # AdelaiDet normalizes within each process. This synchronizes if the bases do.
            seg_norm = norm if norm in ("SyncBN", "naiveSyncBN") else "BN"
            blocks: list[nn.Module] = []
            width = input_shape[self.in_features[0]].channels
            for _ in range(2):
                conv = nn.Conv2d(width, channels, 3, padding=1, bias=False)
                blocks += [conv, get_norm(seg_norm, channels), nn.ReLU(inplace=True)]
                width = channels
            self.seg_head = nn.Sequential(*blocks, nn.Conv2d(channels, num_classes + 1, 1))

    @staticmethod
    def common_arguments(cfg, input_shape: dict[str, ShapeSpec]) -> dict:
        """Return the keyword arguments of this base class, from the config."""
        basis = cfg.MODEL.BASIS_MODULE
        return {
            "in_features": basis.IN_FEATURES,
            "input_shape": input_shape,
            "channels": basis.CONVS_DIM,
            "norm": basis.NORM,
            "num_classes": basis.NUM_CLASSES if basis.LOSS_ON else None,
            "loss_weight": basis.LOSS_WEIGHT,
            "common_stride": basis.COMMON_STRIDE,
        }

    def semantic_logits(self, features: dict[str, torch.Tensor]) -> torch.Tensor:
        """Return (N, classes + 1, H / common_stride, W / common_stride), channel 0 for "nothing"."""
        return self.seg_head(features[self.in_features[0]])

    def semantic_loss(
        self, features: dict[str, torch.Tensor], batched_inputs: Sequence[dict], divisibility: int
    ) -> dict[str, torch.Tensor]:
        """Return the cross-entropy on things as ``loss_basis_sem``, or nothing if the loss is off.

        Args:
            batched_inputs: the model's, from which :func:`~.mask_targets.thing_labels` takes the labels.
            divisibility: what the padded images' sides are multiples of.
        """
        if not self.loss_on:
            return {}
        labels = thing_labels(batched_inputs, features[self.in_features[0]].device, divisibility)
        if labels is None:
            raise ValueError(
                "an input must have instance masks, or 'basis_sem' of adet_ext.data.AdetDatasetMapper, for "
                "MODEL.BASIS_MODULE.LOSS_ON; got neither. Set MODEL.MASK_ON True, or MODEL.BASIS_MODULE.LOSS_ON False"
            )
        logits = self.semantic_logits(features)
        # Every stride-th pixel, the first included: of the feature's size even where the stride does not divide the
        # image's, as strided convolutions round up.
        labels = labels[:, :: self.common_stride, :: self.common_stride]
        return {"loss_basis_sem": F.cross_entropy(logits.float(), labels) * self.loss_weight}


@BASIS_MODULE_REGISTRY.register()
class ProtoNet(BasisModule):
    """YOLACT's prototype network on one level ("Proto-P3") or the sum of several ("Proto-FPN").

    The bases have twice the resolution of the first input.
    """

    @configurable
    def __init__(self, *, num_bases: int, num_convs: int, **common):
        """
        Args:
            num_bases: K.
            num_convs: 3x3 convolutions between the (first, summed) ones on the inputs and the upsampling; one more
                follows it.
            common: see :class:`BasisModule`.
        """
        super().__init__(**common)
        channels, norm, input_shape = (common[k] for k in ("channels", "norm", "input_shape"))
        self.refine = nn.ModuleList(
            [conv_norm_relu(input_shape[f].channels, channels, norm=norm) for f in self.in_features]
        )
        self.tower = nn.Sequential(
            *[conv_norm_relu(channels, channels, norm=norm) for _ in range(num_convs)],
            nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False),
            conv_norm_relu(channels, channels, norm=norm),
            nn.Conv2d(channels, num_bases, 1),
        )

    @classmethod
    def from_config(cls, cfg, input_shape: dict[str, ShapeSpec]) -> dict:
        basis = cfg.MODEL.BASIS_MODULE
        common = cls.common_arguments(cfg, input_shape)
        return {"num_bases": basis.NUM_BASES, "num_convs": basis.NUM_CONVS, **common}

    def forward(self, features: dict[str, torch.Tensor]) -> torch.Tensor:
        """Return the bases, (N, K, H / s, W / s)."""
        x = self.refine[0](features[self.in_features[0]])
        for refine, name in zip(self.refine[1:], self.in_features[1:]):
            x = x + resize_like(refine(features[name]), x)
        return self.tower(x)


@BASIS_MODULE_REGISTRY.register()
class DeepLabV3Plus(BasisModule):
    """The decoder of DeepLabV3+ (Chen et al. 2018): an atrous pyramid on the coarse input, joined with the fine one.

    The bases have the resolution of the first input: stride 8 for C3, C5 or P3, P5; 4 for P2, P5.
    """

    @configurable
    def __init__(self, *, num_bases: int, dilations: Sequence[int], project_channels: int, **common):
        """
        Args:
            num_bases: K.
            dilations: of the atrous convolutions on the coarse input.
            project_channels: channels kept of the fine input.
            common: see :class:`BasisModule`; ``in_features`` are the fine and the coarse one.
        """
        super().__init__(**common)
        if len(self.in_features) != 2:
            raise ValueError(
                "MODEL.BASIS_MODULE.IN_FEATURES must name a fine and a coarse feature for DeepLabV3Plus; got "
                f"{self.in_features}"
            )
        channels, norm, input_shape = (common[k] for k in ("channels", "norm", "input_shape"))
        fine, coarse = (input_shape[f].channels for f in self.in_features)
        self.aspp = nn.ModuleList(
            [conv_norm_relu(coarse, channels, kernel_size=1, norm=norm)]
            + [conv_norm_relu(coarse, channels, dilation=d, norm=norm) for d in dilations]
        )
        # No norm: image pooling of a single image has one value per channel, so no batch statistics.
        self.pool = conv_norm_relu(coarse, channels, kernel_size=1, norm="")
        self.join = conv_norm_relu(channels * (len(dilations) + 2), channels, kernel_size=1, norm=norm)
        self.project = conv_norm_relu(fine, project_channels, kernel_size=1, norm=norm)
        self.tower = nn.Sequential(
            conv_norm_relu(channels + project_channels, channels, norm=norm),
            conv_norm_relu(channels, channels, norm=norm),
            nn.Conv2d(channels, num_bases, 1),
        )

    @classmethod
    def from_config(cls, cfg, input_shape: dict[str, ShapeSpec]) -> dict:
        basis = cfg.MODEL.BASIS_MODULE
        return {
            "num_bases": basis.NUM_BASES,
            "dilations": basis.ASPP_DILATIONS,
            "project_channels": basis.PROJECT_CHANNELS,
            **cls.common_arguments(cfg, input_shape),
        }

    def forward(self, features: dict[str, torch.Tensor]) -> torch.Tensor:
        """Return the bases, (N, K, H / s, W / s)."""
        fine, coarse = (features[f] for f in self.in_features)
        branches = [branch(coarse) for branch in self.aspp]
        pooled = self.pool(coarse.mean(dim=(2, 3), keepdim=True)).expand_as(branches[0])
        x = self.join(torch.cat([*branches, pooled], dim=1))
        x = torch.cat([self.project(fine), resize_like(x, fine)], dim=1)
        return self.tower(x)

"""The last layer of SmalMask: predict a location's mask from its features (thesis 3.3.1, Figure 3.3).

N images, C channels, H_l x W_l the map of level l, D places to predict masks at, k x k the kernel, M the side of a
mask.

Each predictor has two forms with the same results: ``forward`` at chosen places, which models use, and ``dense``
at every location of a level, which is the definition (equation 3.1).
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from ...layers.deform import ConvWeights
from ...layers.roi_pred import roi_pred, roi_pred_dense
from ...layers.sparse_conv import conv_at
from ...layers.sparse_deform import deform_conv_at
from ...utils.deform_conv import deform_conv2d

__all__ = ["PREDICTORS", "ConvPredictor", "DefConvPredictor", "Places", "RoIConvPredictor", "RoIPredictor"]


class Places(NamedTuple):
    """Where to predict masks."""

    image: torch.Tensor  # (D,) int64
    location: torch.Tensor  # (D,) int64, position in the detector's levels laid end to end
    level: torch.Tensor  # (D,) int64, index into the maps that the predictor reads
    boxes: torch.Tensor  # (D, 4) XYXY in pixels of the network's input, which guide the sampler


class _Predictor(nn.Module):
    # Whether boxes guide the sampler. If so, the mask depends on the box and level, not on the location in the box.
    guided: bool

    def __init__(self, in_channels: int, mask_size: int, kernel: int, strides: Sequence[float]):
        """
        Args:
            in_channels: C.
            mask_size: M.
            kernel: k, odd.
            strides: of the maps that are read, in pixels.
        """
        super().__init__()
        if kernel < 1 or kernel % 2 == 0:
            raise ValueError(f"MODEL.SMALMASK.KERNEL must be an odd number (3, 5 or 7 in the thesis); got {kernel}")
        self.mask_size = mask_size
        self.kernel = kernel
        self.strides = list(strides)

    def forward(self, maps: Sequence[torch.Tensor], places: Places) -> torch.Tensor:
        """Return mask logits (D, M, M) at the places; ``maps``: one (N, C, H_l, W_l) per stride."""
        return self.logits(maps, places).unflatten(1, (self.mask_size, self.mask_size))

    def logits(self, maps: Sequence[torch.Tensor], places: Places) -> torch.Tensor:
        """Return mask logits (D, M^2) at the places."""
        raise NotImplementedError(f"{type(self).__name__} must define logits")

    def dense(self, feature: torch.Tensor, ltrb: torch.Tensor, *, stride: float, feature_stride: float) -> torch.Tensor:
        """Return mask logits at every location: (N, M^2, H, W).

        Args:
            feature: (N, C, H', W'), of ``feature_stride``.
            ltrb: (N, 4, H, W) distances of the locations to the sides of their boxes, in pixels.
            stride: of the locations.
        """
        raise NotImplementedError(f"{type(self).__name__} must define dense")


class ConvPredictor(_Predictor):
    """A plain convolution on the location's surroundings."""

    guided = False

    def __init__(self, in_channels: int, mask_size: int, kernel: int, strides: Sequence[float]):
        super().__init__(in_channels, mask_size, kernel, strides)
        self.conv = nn.Conv2d(in_channels, mask_size**2, kernel, padding=kernel // 2)
        nn.init.normal_(self.conv.weight, std=0.01)
        nn.init.zeros_(self.conv.bias)

    def logits(self, maps: Sequence[torch.Tensor], places: Places) -> torch.Tensor:
        return conv_at(self.conv, maps, places.image, places.location)

    def dense(self, feature: torch.Tensor, ltrb: torch.Tensor, *, stride: float, feature_stride: float) -> torch.Tensor:
        return self.conv(feature)


class DefConvPredictor(_Predictor):
    """A modulated deformable convolution (DCNv2) whose offsets are learned without supervision."""

    guided = False

    def __init__(self, in_channels: int, mask_size: int, kernel: int, strides: Sequence[float]):
        super().__init__(in_channels, mask_size, kernel, strides)
        self.taps = kernel**2
        self.offset = nn.Conv2d(in_channels, 3 * self.taps, kernel, padding=kernel // 2)
        # The regular grid at first, as in the papers on deformable convolution.
        nn.init.zeros_(self.offset.weight)
        nn.init.zeros_(self.offset.bias)
        self.conv = ConvWeights(in_channels, mask_size**2, kernel, std=0.01)

    def logits(self, maps: Sequence[torch.Tensor], places: Places) -> torch.Tensor:
        offsets, mask = conv_at(self.offset, maps, places.image, places.location).split([2 * self.taps, self.taps], 1)
        return deform_conv_at(
            maps, places.image, places.location, offsets, mask.sigmoid(), self.conv.weight, self.conv.bias
        )

    def dense(self, feature: torch.Tensor, ltrb: torch.Tensor, *, stride: float, feature_stride: float) -> torch.Tensor:
        offsets, mask = self.offset(feature).split([2 * self.taps, self.taps], dim=1)
        return deform_conv2d(
            feature, offsets, self.conv.weight, self.conv.bias, padding=self.kernel // 2, mask=mask.sigmoid()
        )


class RoIConvPredictor(_Predictor):
    """Box-guided alignment to C channels (Chen et al. 2019), and a further layer that predicts from them.

    The further layer is 1x1, since every location is aligned to its own box and neighbors share no frame.
    """

    guided = True

    def __init__(self, in_channels: int, mask_size: int, kernel: int, strides: Sequence[float]):
        super().__init__(in_channels, mask_size, kernel, strides)
        self.align = ConvWeights(in_channels, in_channels, kernel, std=0.01)
        self.predict = nn.Linear(in_channels, mask_size**2)
        nn.init.normal_(self.predict.weight, std=0.01)
        nn.init.zeros_(self.predict.bias)

    def logits(self, maps: Sequence[torch.Tensor], places: Places) -> torch.Tensor:
        where = (places.boxes, places.image, places.level)
        return self.predict(F.relu(roi_pred(maps, self.align.weight, self.align.bias, *where, strides=self.strides)))

    def dense(self, feature: torch.Tensor, ltrb: torch.Tensor, *, stride: float, feature_stride: float) -> torch.Tensor:
        aligned = roi_pred_dense(
            feature, self.align.weight, self.align.bias, ltrb, stride=stride, feature_stride=feature_stride
        )
        return F.conv2d(F.relu(aligned), self.predict.weight[:, :, None, None], self.predict.bias)


class RoIPredictor(_Predictor):
    """RoIPred: box-guided alignment and prediction in one (equations 3.1 to 3.3 and 3.5)."""

    guided = True

    def __init__(self, in_channels: int, mask_size: int, kernel: int, strides: Sequence[float]):
        super().__init__(in_channels, mask_size, kernel, strides)
        self.pred = ConvWeights(in_channels, mask_size**2, kernel, std=0.01)

    def logits(self, maps: Sequence[torch.Tensor], places: Places) -> torch.Tensor:
        where = (places.boxes, places.image, places.level)
        return roi_pred(maps, self.pred.weight, self.pred.bias, *where, strides=self.strides)

    def dense(self, feature: torch.Tensor, ltrb: torch.Tensor, *, stride: float, feature_stride: float) -> torch.Tensor:
        return roi_pred_dense(
            feature, self.pred.weight, self.pred.bias, ltrb, stride=stride, feature_stride=feature_stride
        )


PREDICTORS = {
    "Conv": ConvPredictor,
    "DefConv": DefConvPredictor,
    "RoIConv": RoIConvPredictor,
    "RoIPred": RoIPredictor,
}

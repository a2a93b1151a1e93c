"""Small pieces: shapes, blocks, RoIAlign, class-wise suppression."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torchvision
from torch import Tensor, nn

from .norm import FrozenBatchNorm2d


@dataclass
class ShapeSpec:
    """The shape of a feature map, as far as it is known in advance."""

    channels: int | None = None
    height: int | None = None
    width: int | None = None
    stride: int | None = None


class CNNBlockBase(nn.Module):
    """A block from ``in_channels`` to ``out_channels`` that divides height and width by ``stride``."""

    def __init__(self, in_channels: int, out_channels: int, stride: int):
        super().__init__()
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.stride = stride

    def freeze(self) -> "CNNBlockBase":
        """Stop training: parameters get no gradients, and batch norms become frozen ones."""
        for parameter in self.parameters():
            parameter.requires_grad = False
        return FrozenBatchNorm2d.convert_frozen_batchnorm(self)


class ROIAlign(torchvision.ops.RoIAlign):
    """torchvision's RoIAlign, by default aligned to pixel centers.

    ``output_size``: (height, width) of each region; ``spatial_scale``: units of the input per unit of the
    boxes; ``sampling_ratio``: samples per bin and direction, 0 for as many as the bin has pixels.
    """

    def __init__(
        self, output_size: int | tuple[int, int], spatial_scale: float, sampling_ratio: int, aligned: bool = True
    ):
        super().__init__(output_size, spatial_scale, sampling_ratio, aligned)

    def forward(self, input: Tensor, rois: Tensor) -> Tensor:
        """Map ``input`` (N, C, H, W) and ``rois`` (R, 5), image index, x0, y0, x1, y1, to (R, C, *size)."""
        return super().forward(input, rois.to(input.dtype))


def batched_nms(boxes: Tensor, scores: Tensor, idxs: Tensor, iou_threshold: float) -> Tensor:
    """Return the indices kept by suppression within each class, best score first.

    ``boxes`` (N, 4), ``scores`` (N,), ``idxs`` (N,) the classes. A box is dropped if it overlaps a better one
    of its class by more than ``iou_threshold``.
    """
    if boxes.shape[-1] != 4:
        raise AssertionError(f"boxes must be N x 4; got {tuple(boxes.shape)}")
    # Classes are separated by an offset, which half precision could not represent.
    return torchvision.ops.batched_nms(boxes.float(), scores, idxs, iou_threshold)


def cat(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    """Concatenate as ``torch.cat``, but return a single tensor itself."""
    return tensors[0] if len(tensors) == 1 else torch.cat(list(tensors), dim)

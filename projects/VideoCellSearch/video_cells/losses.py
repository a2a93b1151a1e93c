"""The losses of segmentation. N images, C classes, H x W the labels, h x w the predictions."""

import torch
from torch.nn import functional as F

from adet_ext.layers.resized_cross_entropy import resized_cross_entropy

__all__ = ["labels_at", "segmentation_loss"]


def labels_at(labels: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Return labels (N, H, W), int64, at another size: those nearest to the centers of its pixels."""
    if tuple(labels.shape[-2:]) == tuple(size):
        return labels
    return F.interpolate(labels[:, None].double(), size=size, mode="nearest-exact")[:, 0].long()


def segmentation_loss(
    logits: torch.Tensor, labels: torch.Tensor, ignore_value: int, *, full_size: bool = False
) -> torch.Tensor:
    """Return the mean cross-entropy over labeled pixels; 0, with a gradient of 0, where there is none.

    Args:
        logits: (N, C, h, w).
        labels: (N, H, W), int64.
        full_size: compare at H x W, to which the logits are resized bilinearly; else at h x w (nas-segm-pytorch).
    """
    if not full_size:
        labels = labels_at(labels, logits.shape[-2:])
    return resized_cross_entropy(logits, labels, ignored=ignore_value)

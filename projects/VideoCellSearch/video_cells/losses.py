"""The losses of segmentation. N images, C classes, H x W the labels, h x w the predictions."""

import torch
from torch.nn import functional as F

from adet_ext.layers.cells import resize

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
    logits = logits.float()
    if full_size:
        logits = resize(logits, tuple(labels.shape[-2:]))
    else:
        labels = labels_at(labels, logits.shape[-2:])
    total = F.cross_entropy(logits, labels, ignore_index=ignore_value, reduction="sum")
    return total / (labels != ignore_value).sum().clamp(min=1)

"""The losses of segmentation. N images, C classes, H x W the labels, h x w the predictions."""

import torch
from torch.nn import functional as F

__all__ = ["labels_at", "segmentation_loss"]


def labels_at(labels: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Return labels (N, H, W), int64, at another size: the nearest one (nas-segm-pytorch)."""
    if labels.shape[-2:] == tuple(size):
        return labels
    return F.interpolate(labels[:, None].double(), size=size, mode="nearest")[:, 0].long()


def segmentation_loss(logits: torch.Tensor, labels: torch.Tensor, ignore_value: int) -> torch.Tensor:
    """Return the mean cross-entropy over labeled pixels; 0, with a gradient of 0, where there is none.

    Args:
        logits: (N, C, h, w).
        labels: (N, h, w).
    """
    total = F.cross_entropy(logits.float(), labels, ignore_index=ignore_value, reduction="sum")
    return total / (labels != ignore_value).sum().clamp(min=1)

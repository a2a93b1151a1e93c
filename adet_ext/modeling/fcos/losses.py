"""FCOS' losses: focal loss on the classes, IoU loss on the boxes, cross-entropy on their quality.

N images, L locations over all levels, P positive locations of the batch.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch.nn import functional as F

from ...d2.utils import comm

__all__ = ["Positives", "focal_loss_sum", "smoothed_ious", "box_loss", "flatten_levels", "reduce_mean"]


class Positives(NamedTuple):
    """The positive locations of a batch, for the loss of a mask branch."""

    image: torch.Tensor  # (P,) int64
    location: torch.Tensor  # (P,) int64 in [0, L)
    objects: torch.Tensor  # (P,) int64, counted through the batch
    weight: torch.Tensor  # (P,) center-ness targets
    normalizer: torch.Tensor  # () their sum, averaged over the processes, at least 1e-6


def flatten_levels(maps: Sequence[torch.Tensor]) -> torch.Tensor:
    """Join one (N, C, H_l, W_l) map per level: (N, L, C)."""
    return torch.cat([x.flatten(2) for x in maps], dim=2).transpose(1, 2)


def focal_loss_sum(
    logits: torch.Tensor, row: torch.Tensor, column: torch.Tensor, *, alpha: float, gamma: float
) -> torch.Tensor:
    """Sum of the sigmoid focal loss (Lin et al. 2017) over all entries of ``logits``.

    Args:
        logits: (..., C); flattened to rows of C classes.
        row, column: (P,) the entries whose target is 1; all others have target 0.

    The negatives' loss is summed over everything and corrected at the few positives: no one-hot tensor is made.
    """
    logits = logits.float()
    negative = _focal_negative(logits, gamma)
    x = logits.reshape(-1, logits.shape[-1])[row, column]
    positive = (1 - x.sigmoid()).pow(gamma) * F.softplus(-x)
    return (1 - alpha) * (negative.sum() - _focal_negative(x, gamma).sum()) + alpha * positive.sum()


def _focal_negative(x: torch.Tensor, gamma: float) -> torch.Tensor:
    return x.sigmoid().pow(gamma) * F.softplus(x)


def smoothed_ious(predicted: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return IoU and GIoU of boxes given as (P, 4) distances l, t, r, b from one location, in units of the stride.

    IoU is smoothed, (intersection + 1) / (union + 1); GIoU is that minus (enclosing - union) / enclosing.
    """
    inner, outer = torch.minimum(predicted, target), torch.maximum(predicted, target)
    intersection = (inner[:, 0] + inner[:, 2]) * (inner[:, 1] + inner[:, 3])
    enclosing = (outer[:, 0] + outer[:, 2]) * (outer[:, 1] + outer[:, 3])
    areas = [(b[:, 0] + b[:, 2]) * (b[:, 1] + b[:, 3]) for b in (predicted, target)]
    union = areas[0] + areas[1] - intersection
    iou = (intersection + 1) / (union + 1)
    return iou, iou - (enclosing - union) / enclosing


def box_loss(iou: torch.Tensor, giou: torch.Tensor, kind: str) -> torch.Tensor:
    """Return the loss per box (P,): "giou" 1 - GIoU, "iou" -log IoU, "linear_iou" 1 - IoU."""
    if kind == "giou":
        return 1 - giou
    if kind == "iou":
        return -iou.log()
    if kind == "linear_iou":
        return 1 - iou
    raise ValueError(f"MODEL.FCOS.LOC_LOSS_TYPE must be giou, iou or linear_iou; got {kind!r}")


def reduce_mean(values: torch.Tensor) -> torch.Tensor:
    """Return the mean of a tensor over all processes."""
    world_size = comm.get_world_size()
    if world_size == 1:
        return values
    values = values.clone()
    dist.all_reduce(values)
    return values / world_size

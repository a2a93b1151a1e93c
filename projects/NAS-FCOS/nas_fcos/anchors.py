"""Anchors: their shapes, which of them an object belongs to, and boxes as deltas from them.

L anchors, given as (x, y, width, height) of center and sides, G objects of an image.
"""

import math
from collections.abc import Sequence

import torch
from torchvision.ops import box_convert, box_iou

from adet_ext.errors import UserError

__all__ = ["anchor_shapes", "decode_boxes", "encode_boxes", "match_anchors"]

# Widths and heights grow by 62.5 at most, which keeps their exponentials finite.
_LONGEST = math.log(1000 / 16)


def anchor_shapes(scale: float, octave_steps: int, ratios: Sequence[float]) -> torch.Tensor:
    """Return widths and heights in units of the stride, (A, 2): octave by octave, for each ratio of height to width.

    Raises:
        UserError: no steps, or a ratio or scale that is not positive.
    """
    if octave_steps < 1 or scale <= 0 or not ratios or min(ratios) <= 0:
        raise UserError(
            "MODEL.NAS_FCOS.RETINANET must have a positive ANCHOR_SCALE, OCTAVE_STEPS and ASPECT_RATIOS; got "
            f"{scale}, {octave_steps} and {list(ratios)}"
        )
    sides = [scale * 2 ** (i / octave_steps) for i in range(octave_steps)]
    return torch.tensor([[side / ratio**0.5, side * ratio**0.5] for side in sides for ratio in ratios])


def match_anchors(anchors: torch.Tensor, boxes: torch.Tensor, thresholds: tuple[float, float]) -> torch.Tensor:
    """Return for each anchor the index of its object, -1 for background, -2 where it is neither: (L,) int64.

    An anchor's object is the one that it overlaps most. Positive are anchors whose IoU reaches the second threshold,
    and those that overlap an object more than any other anchor does; background are those below the first.

    Args:
        boxes: (G, 4) absolute XYXY.
    """
    if not len(boxes):
        return torch.full((len(anchors),), -1, dtype=torch.int64, device=anchors.device)
    iou = box_iou(boxes, box_convert(anchors, "cxcywh", "xyxy"))  # (G, L)
    best, index = iou.max(dim=0)  # (L,)
    matched = torch.where(best >= thresholds[1], index, torch.where(best < thresholds[0], -1, -2))
    most = iou.max(dim=1, keepdim=True).values  # (G, 1)
    nearest = ((iou == most) & (most > 0)).any(dim=0)
    return torch.where(nearest, index, matched)


def encode_boxes(anchors: torch.Tensor, boxes: torch.Tensor, weights: Sequence[float]) -> torch.Tensor:
    """Return the deltas (L, 4) that :func:`decode_boxes` turns into ``boxes`` (L, 4), absolute XYXY."""
    target = box_convert(boxes, "xyxy", "cxcywh")
    shift = (target[:, :2] - anchors[:, :2]) / anchors[:, 2:]
    growth = (target[:, 2:] / anchors[:, 2:]).log()
    return torch.cat([shift, growth], dim=1) * anchors.new_tensor(weights)


def decode_boxes(anchors: torch.Tensor, deltas: torch.Tensor, weights: Sequence[float]) -> torch.Tensor:
    """Return the boxes (N, L, 4), absolute XYXY, that deltas (N, L, 4) make of anchors (L, 4)."""
    dx, dy, dw, dh = (deltas[..., i] / weights[i] for i in range(4))
    x, y, width, height = anchors.unbind(dim=1)
    size = torch.stack([width * dw.clamp(max=_LONGEST).exp(), height * dh.clamp(max=_LONGEST).exp()], dim=-1)
    center = torch.stack([x + dx * width, y + dy * height], dim=-1)
    return torch.cat([center - size / 2, center + size / 2], dim=-1)

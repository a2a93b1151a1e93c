"""Merge things and stuff into one map by Panoptic-FPN's rule (Kirillov et al. 2019; thesis section 4.4.4).

D instances of one image, C semantic classes with 0 for all things, H, W height and width of the result.
"""

from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from ..d2.structures import Instances

__all__ = ["Merger", "PanopticMerger", "claim_pixels", "semantic_scores"]


class Merger:
    """The limits of ``MODEL.PANOPTIC_FPN.COMBINE`` that decide which segments are kept."""

    def __init__(
        self, *, confidence_threshold: float = 0.2, overlap_threshold: float = 0.4, stuff_area_limit: float = 4096
    ):
        """
        Args:
            confidence_threshold: the minimum score of an instance.
            overlap_threshold: the maximum share of an instance's pixels that better ones may have.
            stuff_area_limit: the minimum pixels of a stuff class in the result.
        """
        self.confidence_threshold = confidence_threshold
        self.overlap_threshold = overlap_threshold
        self.stuff_area_limit = stuff_area_limit

    @classmethod
    def from_config(cls, cfg):
        node = cfg.MODEL.PANOPTIC_FPN.COMBINE
        return cls(
            confidence_threshold=node.INSTANCES_CONFIDENCE_THRESH,
            overlap_threshold=node.OVERLAP_THRESH,
            stuff_area_limit=node.STUFF_AREA_LIMIT,
        )


class PanopticMerger(Merger):
    """Stacks instances, the best-scored on top, and fills the rest with stuff.

    Instances below the confidence threshold are dropped, and so are those with too many pixels covered by better ones;
    the others keep the pixels that are not covered. Then every stuff class gets the uncovered pixels where it has the
    highest score, unless they are too few.
    """

    def __call__(self, instances: Instances, labels: torch.Tensor) -> tuple[torch.Tensor, list[dict[str, Any]]]:
        """Merge one image's predictions.

        Args:
            instances: with ``scores`` (D,), ``pred_classes`` (D,) and ``pred_masks`` (D, H, W) bool.
            labels: (H, W) int64, the best semantic class of each pixel, in [0, C).

        Returns:
            Detectron2's ``panoptic_seg``: (H, W) int32 ids, 0 where nothing is, and a dict for each id: ``id``,
            ``isthing``, ``category_id``; for things also ``score`` and ``instance_id`` (the place among
            ``instances``), for stuff ``area`` in pixels.
        """
        masks = instances.pred_masks
        if tuple(masks.shape[1:]) != tuple(labels.shape):
            raise ValueError(
                "pred_masks and labels must have the size of the result; got "
                f"{' x '.join(map(str, masks.shape[1:]))} and {' x '.join(map(str, labels.shape))} pixels"
            )
        # Scores that are equal keep the order of the detections.
        order = instances.scores.sort(descending=True, stable=True).indices
        order = order[instances.scores[order] >= self.confidence_threshold]
        ids, order = self.claim(masks, instances.scores, order)
        segments: list[dict[str, Any]] = [
            {"id": i, "isthing": True, "score": score, "category_id": category, "instance_id": place}
            for i, (score, category, place) in enumerate(
                zip(instances.scores[order].tolist(), instances.pred_classes[order].tolist(), order.tolist()), start=1
            )
        ]
        stuff = torch.where(ids == 0, labels, 0)
        areas = torch.bincount(stuff.flatten())
        areas[0] = 0
        kept = ((areas > 0) & (areas >= self.stuff_area_limit)).nonzero()[:, 0]
        id_of = torch.zeros(len(areas), dtype=ids.dtype, device=ids.device)
        id_of[kept] = torch.arange(1, len(kept) + 1, dtype=ids.dtype, device=ids.device) + len(segments)
        segments += [
            {"id": i, "isthing": False, "category_id": category, "area": area}
            for i, (category, area) in enumerate(zip(kept.tolist(), areas[kept].tolist()), start=len(segments) + 1)
        ]
        return ids + id_of[stuff], segments

    def claim(
        self, masks: torch.Tensor, scores: torch.Tensor, order: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Decide which instances are kept, and which pixels they get. Other rules override this.

        Args:
            masks: (D, H, W) bool.
            scores: (D,).
            order: (O,) int64, the instances above the confidence threshold, the best first.

        Returns:
            (H, W) int32, 0 for no instance, k for the k-th kept one; and (k,) int64, the kept ones. Each has a pixel.
        """
        ids, accepted = claim_pixels(masks, self.overlap_threshold, order)
        return ids, order[accepted]


def claim_pixels(
    masks: torch.Tensor, overlap_threshold: float, order: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Give each pixel to the first accepted mask that has it.

    A mask is accepted if it has pixels and earlier accepted masks have at most the share ``overlap_threshold`` of them.
    There are two ways to the same result: mask by mask makes the host wait for each on a GPU, and sweeps read all of
    (D, H, W) several times, where a CPU need only read the masks' extents: sweeps took 64 times the processor time
    (median of 5 paired rounds, 40 masks of 400 x 544).

    Args:
        masks: (D, H, W) bool.
        order: (O,) int64, the masks that take part, the most important first; None: all, in their order.

    Returns:
        (H, W) int32, 0 for no mask, k for the k-th accepted one; and (O,) bool, which of ``order`` are accepted.
    """
    claim = _claim_on_cpu if masks.device.type == "cpu" else _claim_by_sweeps
    if order is None:
        order = torch.arange(len(masks), device=masks.device)
    return claim(masks.bool(), overlap_threshold, order)


def _claim_on_cpu(
    masks: torch.Tensor, overlap_threshold: float, order: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Claim mask by mask, within its extent.

    A CPU's time grows with the bytes it reads, and most bytes of (D, H, W) masks are outside of their boxes: for 100
    instances this takes a twentieth of the time of a single sum over the whole tensor.
    """
    ids = np.zeros(masks.shape[1:], np.int32)
    accepted = np.zeros(len(order), bool)
    count, array = 0, masks.numpy()
    for i, place in enumerate(order.tolist()):
        mask = array[place]
        rows = np.flatnonzero(mask.any(axis=1))
        if not len(rows):
            continue
        mask = mask[rows[0] : rows[-1] + 1]
        columns = np.flatnonzero(mask.any(axis=0))
        mask = mask[:, columns[0] : columns[-1] + 1]
        window = ids[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        free = mask & (window == 0)
        area, left = np.count_nonzero(mask), np.count_nonzero(free)
        if (area - left) / area > overlap_threshold:
            continue
        count += 1
        window[free] = count
        accepted[i] = True
    return torch.from_numpy(ids), torch.from_numpy(accepted)


def _claim_by_sweeps(
    masks: torch.Tensor, overlap_threshold: float, order: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Claim with all masks at once, until nothing changes.

    A sweep treats the masks that the last one accepted as the ones that cover others. After one sweep the first mask is
    decided correctly, after two also the second, and so on; in practice three or four sweeps suffice.
    """
    masks, count = masks[order], len(order)
    if not count:
        return torch.zeros(masks.shape[1:], dtype=torch.int32, device=masks.device), order.bool()
    # Bytes are read fastest; 256 masks or more need a wider type.
    rank = torch.arange(count + 1, device=masks.device, dtype=torch.uint8 if count < 256 else torch.int32)
    rank, none = rank[:count, None, None], rank[count]
    areas = masks.sum(dim=(1, 2))
    accepted = areas > 0
    while True:
        owner = torch.where(masks & accepted[:, None, None], rank, none).amin(dim=0)  # the first accepted, or none
        left = (masks & (owner >= rank)).sum(dim=(1, 2))
        before, accepted = accepted, (areas > 0) & ((areas - left).double() / areas <= overlap_threshold)
        if torch.equal(before, accepted):
            break
    number = torch.zeros(count + 1, dtype=torch.int32, device=masks.device)
    number[:count] = accepted.cumsum(0, dtype=torch.int32)
    return number[owner.long()], accepted


def semantic_scores(
    logits: torch.Tensor, stride: int, image_size: tuple[int, int], height: int, width: int
) -> torch.Tensor:
    """Bring the semantic logits of one image to the size of the result.

    Args:
        logits: (C, h, w), at ``stride``, of the padded image.
        image_size: (height, width) of the image without padding, in the network's frame.

    Returns:
        (C, height, width): upsampled by the stride, cropped to the image, resized; each bilinearly.
    """
    # Channels last, where upsampling and comparing classes are fastest. The strides of a single image do not show it.
    logits = logits.permute(1, 2, 0).contiguous()[None].permute(0, 3, 1, 2)  # 1, C, h, w
    scores = F.interpolate(logits, scale_factor=stride, mode="bilinear", align_corners=False)
    scores = scores[:, :, : image_size[0], : image_size[1]]
    if (height, width) != tuple(image_size):  # resizing to the same size costs time and changes nothing
        scores = F.interpolate(scores, size=(height, width), mode="bilinear", align_corners=False)
    return scores[0]

"""Make the segments of one image of its unified panoptic logits (thesis 5.4.3).

S stuff classes, D detections, C channels of the bases, h x w the bases of one image, s their stride, H x W the result.
"""

from typing import Any

import torch

from ...d2.structures import Instances
from ..panoptic import Merger, claim_pixels
from .instance_prediction import InstancePrediction
from .unified_panoptic import NEVER, UnifiedPanoptic, keep_in_boxes

__all__ = ["UnifiedMerger"]

_VALUES = 2**22  # interpolated at a time: memory does not grow with the number of segments


class UnifiedMerger(Merger):
    """The argmax over stuff and detections, without false detections.

    Training sees only true instances; at inference, false positives compete too. So detections below the confidence
    threshold are dropped, and so are those with too many pixels in better ones, as a second detection of an object
    would share its pixels. Scores do not affect the rest. The argmax is of the logits upsampled to the size of the
    result; stuff with too few pixels becomes void.
    """

    def __call__(
        self,
        layer: UnifiedPanoptic,
        prediction: InstancePrediction,
        bases: torch.Tensor,
        embeddings: torch.Tensor,
        instances: Instances,
        image_size: tuple[int, int],
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, list[dict[str, Any]]]]:
        """
        Args:
            bases: (C, h, w), of the padded image.
            embeddings: (D, E), of the detections.
            instances: D detections with ``pred_boxes`` in the frame of the result, ``scores``, best first, and
                ``pred_classes``.
            image_size: (height, width) of the image without padding, in the network's frame.

        Returns:
            ``sem_seg``, (S + 1, H, W) uint8 and one-hot, class 0 being things and void; and Detectron2's
            ``panoptic_seg``: (H, W) int32 ids and a dict each: ``id``, ``isthing``, ``category_id``; for things also
            ``score`` and ``instance_id`` (the place among ``instances``), for stuff ``area`` in pixels.
        """
        places = self.confident(instances)
        h, w = (-(-length // layer.stride) for length in image_size)
        network_boxes = _scaled(instances.pred_boxes.tensor[places], instances.image_size, image_size)
        logits = layer.logits(prediction, bases[:, :h, :w], embeddings[places], network_boxes).float()
        return self.merge(
            logits,
            instances,
            places,
            image_size,
            num_stuff=layer.num_stuff,
            stride=layer.stride,
            in_boxes=layer.in_box_test,
        )

    def confident(self, instances: Instances) -> torch.Tensor:
        """Return the places of the instances that take part, (P,) int64."""
        return (instances.scores >= self.confidence_threshold).nonzero()[:, 0]

    def merge(
        self,
        logits: torch.Tensor,
        instances: Instances,
        places: torch.Tensor,
        image_size: tuple[int, int],
        *,
        num_stuff: int,
        stride: int,
        in_boxes: bool,
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, list[dict[str, Any]]]]:
        """Merge logits that are there already.

        Args:
            logits: (S + P, h, w) float32, of the image without padding: stuff, and the instances at ``places``.
            places: (P,) int64, see :meth:`confident`.
            num_stuff, stride: S and s.
            in_boxes: whether an instance competes only inside its box.
            instances, image_size: as in a call, and so is the result.
        """
        size, stuff, raw = instances.image_size, num_stuff, logits
        scale = [image_size[0] / size[0], image_size[1] / size[1]]  # of the network's frame to the result's
        boxes = instances.pred_boxes.tensor[places]  # in the frame of the result
        coarse = keep_in_boxes(raw, _scaled(boxes, size, image_size), stride) if in_boxes else raw

        order = torch.arange(len(places), device=places.device)
        _, accepted = claim_pixels(coarse[stuff:] > coarse[:stuff].amax(dim=0), self.overlap_threshold, order)
        takes_part = torch.cat([accepted.new_ones(stuff), accepted]).to(coarse.device)  # (S + P,)
        coarse = coarse.masked_fill(~takes_part[:, None, None], -torch.inf)
        lead = coarse - coarse.amax(dim=0)
        won = lead.flatten(1).amax(dim=1) == 0  # drop what wins nowhere
        things = won[stuff:].nonzero()[:, 0]
        winners = torch.cat([won[:stuff].nonzero()[:, 0], things + stuff])
        fine = _Enlarged(raw[winners], _first(lead[winners] == 0), [scale[i] / stride for i in (0, 1)], size)
        owner = winners[fine.owners(boxes[things] if in_boxes else None)]
        return self._segments(owner, stuff, instances, places)

    def _segments(
        self, owner: torch.Tensor, num_stuff: int, instances: Instances, places: torch.Tensor
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, list[dict[str, Any]]]]:
        areas = owner.flatten().bincount(minlength=num_stuff + len(places))
        kept = areas > 0
        kept[:num_stuff] &= areas[:num_stuff] >= self.stuff_area_limit
        things = kept[num_stuff:].nonzero()[:, 0]
        stuff = kept[:num_stuff].nonzero()[:, 0]
        order = torch.cat([things + num_stuff, stuff])
        id_of = torch.zeros_like(areas, dtype=torch.int32)
        id_of[order] = torch.arange(1, len(order) + 1, dtype=torch.int32, device=owner.device)
        label_of = torch.zeros_like(areas, dtype=torch.uint8 if num_stuff < 255 else torch.int32)
        label_of[stuff] = (stuff + 1).to(label_of.dtype)
        labels = label_of[owner]
        classes = torch.arange(num_stuff + 1, device=owner.device, dtype=labels.dtype)
        sem_seg = (labels == classes[:, None, None]).view(torch.uint8)

        where = places[things]
        scores, categories = instances.scores[where].tolist(), instances.pred_classes[where].tolist()
        segments: list[dict[str, Any]] = [
            {"id": i, "isthing": True, "score": score, "category_id": category, "instance_id": place}
            for i, (score, category, place) in enumerate(zip(scores, categories, where.tolist()), start=1)
        ]
        segments += [
            {"id": i, "isthing": False, "category_id": category + 1, "area": area}
            for i, (category, area) in enumerate(zip(stuff.tolist(), areas[stuff].tolist()), start=len(segments) + 1)
        ]
        return sem_seg, (id_of[owner], segments)


def _scaled(boxes: torch.Tensor, size: tuple[int, int], image_size: tuple[int, int]) -> torch.Tensor:
    """Return boxes (P, 4) of the result's frame in the network's; both (height, width)."""
    scale = [image_size[1] / size[1], image_size[0] / size[0]]
    return torch.stack([boxes[:, i] * scale[i % 2] for i in range(4)], dim=1)


def _first(claims: torch.Tensor) -> torch.Tensor:
    """Return the first channel that claims each place: (C, h, w) bool -> (h, w) int64.

    It uses one-byte numbers if there are at most 255: many times faster than argmax over a strided dimension.
    """
    count = len(claims)
    if count > 255:
        return claims.to(torch.uint8).argmax(dim=0)
    numbers = torch.arange(count, 0, -1, device=claims.device, dtype=torch.uint8)[:, None, None]
    return count - (claims.view(torch.uint8) * numbers).amax(dim=0).long()


class _Enlarged:
    """The argmax of bilinearly upsampled logits, interpolating only where it is not certain.

    Between four places with the same best channel, that channel stays the best. So only pixels between places with
    different channels, or at the edge of a box, are interpolated: a minority in most images.
    """

    def __init__(self, logits: torch.Tensor, best: torch.Tensor, scale: list[float], size: tuple[int, int]):
        """
        Args:
            logits: (C, h, w), without regions.
            best: (h, w) int64, the best channel of each place in its region.
            scale: of the result to the places, for heights and widths.
            size: (H, W).
        """
        self.logits, self.best, self.scale, self.size = logits, best, scale, size
        at = [
            ((torch.arange(n, device=best.device) + 0.5) * s - 0.5).clamp(0, side - 1)
            for n, s, side in zip(size, scale, best.shape)
        ]
        self.low = [x.floor().long() for x in at]
        self.fraction = [x - low for x, low in zip(at, self.low)]

    def owners(self, boxes: torch.Tensor | None) -> torch.Tensor:
        """Return the best channel of each pixel, (H, W) int64 in [0, C).

        Args:
            boxes: (T, 4), regions of the last T channels in the result's frame, or None.
        """
        (h, w), (height, width) = self.best.shape, self.size
        y0, x0 = self.low
        owner = self.best[y0][:, x0]  # (H, W)
        doubt = ~_alike(self.best)
        if boxes is not None:
            doubt |= ~_alike(self._regions(boxes))
        pixels = doubt[y0][:, x0].flatten().nonzero()[:, 0]  # (P,)
        table = self.logits.flatten(1).t().contiguous()  # (h w, C)
        flat = owner.flatten()
        for chunk in pixels.split(max(1, _VALUES // table.shape[1])):
            y = chunk.div(width, rounding_mode="floor")
            x = chunk - y * width
            top, left = y0[y], x0[x]
            down = (top + 1).clamp(max=h - 1) * w
            right = (left + 1).clamp(max=w - 1)
            fy, fx = self.fraction[0][y, None], self.fraction[1][x, None]
            upper = torch.lerp(table[top * w + left], table[top * w + right], fx)
            lower = torch.lerp(table[down + left], table[down + right], fx)
            values = torch.lerp(upper, lower, fy)  # (p, C)
            if boxes is not None and len(boxes):
                bx0, by0, bx1, by1 = boxes.t()
                px, py = x[:, None] + 0.5, y[:, None] + 0.5
                inside_box = (px >= bx0) & (px <= bx1) & (py >= by0) & (py <= by1)  # (p, T)
                values[:, -len(boxes) :].masked_fill_(~inside_box, NEVER)
            flat[chunk] = values.argmax(dim=1)
        return flat.view(height, width)

    def _regions(self, boxes: torch.Tensor) -> torch.Tensor:
        """Return (h, w) numbers that differ where the boxes over two places differ: sums of one number per box."""
        ys, xs = ((torch.arange(n, device=boxes.device) + 0.5) / s for n, s in zip(self.best.shape, self.scale))
        rows = ((ys >= boxes[:, 1:2]) & (ys <= boxes[:, 3:])).double()  # (T, h)
        columns = ((xs >= boxes[:, :1]) & (xs <= boxes[:, 2:3])).double()
        # Square roots of integers: two sets of boxes have equal sums only by chance.
        numbers = torch.arange(2, len(boxes) + 2, device=boxes.device, dtype=torch.float64).sqrt()
        return (rows * numbers[:, None]).t() @ columns


def _alike(x: torch.Tensor) -> torch.Tensor:
    """Return whether each place equals its neighbors to the right, below and diagonally: (h, w) bool."""
    alike = torch.ones_like(x, dtype=torch.bool)
    alike[:-1] &= x[:-1] == x[1:]
    across = torch.ones_like(alike)
    across[:, :-1] = x[:, :-1] == x[:, 1:]
    alike &= across
    alike[:-1] &= across[1:]
    return alike

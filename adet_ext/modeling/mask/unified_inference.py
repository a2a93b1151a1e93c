"""From the unified panoptic logits of one image to its segments (thesis 5.4.3).

S stuff classes, G detections, D channels of the bases, h x w the bases of one image, s their stride, H x W the result.
"""

from typing import Any

import torch

from ...d2.structures import Instances
from ..panoptic import claim_pixels
from .instance_prediction import InstancePrediction
from .unified_panoptic import NEVER, UnifiedPanoptic, inside

__all__ = ["UnifiedMerger"]

_CHANNELS = 16  # enlarged at a time: memory does not grow with the number of segments


class UnifiedMerger:
    """The argmax over stuff and detections, with what the competition of training knows nothing of: false detections.

    In training all instances of the softmax are real ones. So here a detection below the confidence threshold is left
    out, and so is one of which too much belongs to better ones: a second detection of an object would share its
    pixels. The scores have no part in what remains. The channels that win somewhere at the stride of the bases are
    enlarged to the size of the result, where the argmax is taken.
    """

    def __init__(self, *, confidence_threshold: float, overlap_threshold: float, stuff_area_limit: float):
        """
        Args:
            confidence_threshold: a detection's score has to reach it.
            overlap_threshold: the largest share of a detection's pixels that better ones may have.
            stuff_area_limit: pixels of the result that a stuff class has to have; otherwise they become void.
        """
        self.confidence_threshold = confidence_threshold
        self.overlap_threshold = overlap_threshold
        self.stuff_area_limit = stuff_area_limit

    @classmethod
    def from_config(cls, cfg) -> "UnifiedMerger":
        node = cfg.MODEL.PANOPTIC_FPN.COMBINE
        return cls(
            confidence_threshold=node.INSTANCES_CONFIDENCE_THRESH,
            overlap_threshold=node.OVERLAP_THRESH,
            stuff_area_limit=node.STUFF_AREA_LIMIT,
        )

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
            bases: (D, h, w), of the padded image.
            embeddings: (G, E), of the detections.
            instances: G detections with ``pred_boxes`` in the frame of the result, ``scores``, best first, and
                ``pred_classes``.
            image_size: (height, width) of the image without padding, in the network's frame.

        Returns:
            ``sem_seg``, (S + 1, H, W) uint8 and one-hot, class 0 being things and void; and Detectron2's
            ``panoptic_seg``: (H, W) int32 ids and a dict for each: ``id``, ``isthing``, ``category_id``; for things also
            ``score`` and ``instance_id`` (the place among ``instances``), for stuff ``area`` in pixels.
        """
        size, stuff = instances.image_size, layer.num_stuff
        scale = [image_size[0] / size[0], image_size[1] / size[1]]  # of the network's frame to the result's
        places = (instances.scores >= self.confidence_threshold).nonzero()[:, 0]
        boxes = instances.pred_boxes.tensor[places]  # in the frame of the result
        network_boxes = boxes * boxes.new_tensor(scale[::-1] * 2)
        h, w = (-(-length // layer.stride) for length in image_size)
        raw = layer.logits(prediction, bases[:, :h, :w], embeddings[places], network_boxes).float()  # (S + G, h, w)
        coarse = layer.keep_in_boxes(raw, network_boxes) if layer.in_box_test else raw

        order = torch.arange(len(places), device=places.device)
        _, accepted = claim_pixels(coarse[stuff:] > coarse[:stuff].amax(dim=0), order, self.overlap_threshold)
        accepted = accepted.to(coarse.device)
        lost = torch.cat([accepted.new_zeros(stuff), ~accepted])
        coarse = coarse.masked_fill(lost[:, None, None], NEVER)
        # Whatever wins nowhere here is not looked at again: (largest lead over the best).
        winners = ((coarse - coarse.amax(dim=0)).flatten(1).amax(dim=1) == 0).nonzero()[:, 0]
        owner = self._owners(layer, raw, winners, boxes, size, [scale[i] / layer.stride for i in (0, 1)])
        return self._segments(owner, stuff, instances, places)

    def _owners(
        self,
        layer: UnifiedPanoptic,
        raw: torch.Tensor,
        winners: torch.Tensor,
        boxes: torch.Tensor,
        size: tuple[int, int],
        scale: list[float],
    ) -> torch.Tensor:
        """The channel of each pixel of the result, (H, W) int64.

        Args:
            raw: (S + G, h, w) logits, without regions.
            winners: the channels to choose from, in ascending order.
            boxes: (G, 4) in the frame of the result.
            scale: of the result to the bases, for heights and widths.
        """
        ys, xs = (torch.arange(length, device=raw.device) + 0.5 for length in size)
        best = owner = None
        for channels in winners.split(_CHANNELS):
            # The scale is given beside the size: the bases may reach beyond the image by a part of a cell.
            fine = torch.ops.aten.upsample_bilinear2d(
                raw[channels][None], list(size), False, 1 / scale[0], 1 / scale[1]
            )[0]  # (c, H, W)
            if layer.in_box_test:
                things = channels >= layer.num_stuff
                regions = inside(boxes[channels[things] - layer.num_stuff], ys, xs)
                first = len(channels) - len(regions)  # things come after stuff
                fine[first:].masked_fill_(~regions, NEVER)
            lead = fine.amax(dim=0)
            # The channel of the lead, by numbers of one byte: many times faster than argmax over a strided dimension.
            number = torch.arange(1, len(channels) + 1, device=raw.device, dtype=torch.uint8)[:, None, None]
            local = ((fine >= lead).view(torch.uint8) * number).amax(dim=0).long() - 1
            chosen = channels[local]
            if best is None:
                best, owner = lead, chosen
            else:
                owner = torch.where(lead > best, chosen, owner)
                best = torch.maximum(best, lead)
        return owner

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

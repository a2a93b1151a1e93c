"""Make detections of the head's maps, with tensors of fixed size and without waiting for the device.

N images, C classes, L locations over all levels, K candidates and D detections per image.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch

from ...d2.structures import Boxes, Instances
from ...layers.nms_mask import nms_mask
from .head import HeadOutput
from .targets import Locations

__all__ = ["Detections", "detect"]


class Detections(NamedTuple):
    """The best D boxes of each image, best first; the rest, where ``valid`` is False, is padding.

    Boxes are in pixels of the network's input and not clipped to it.
    """

    boxes: torch.Tensor  # (N, D, 4) XYXY
    scores: torch.Tensor  # (N, D) sqrt(class probability * quality)
    classes: torch.Tensor  # (N, D) int64
    index: torch.Tensor  # (N, D) int64, the location in [0, L) that predicted the box
    valid: torch.Tensor  # (N, D) bool

    @property
    def image(self) -> torch.Tensor:
        """Return the image of each: (N, D) int64."""
        n, d = self.valid.shape
        return torch.arange(n, device=self.valid.device)[:, None].expand(n, d)

    def to_instances(
        self, image_sizes: Sequence[tuple[int, int]], locations: Locations, **extra: torch.Tensor
    ) -> list[Instances]:
        """Return the valid ones, one Instances per image. ``extra`` fields are (N, D, ...) tensors.

        Here the host waits for the device to know how many are valid.
        """
        fields = {
            "scores": self.scores,
            "pred_classes": self.classes,
            "locations": locations.xy[self.index],
            "fpn_levels": locations.level[self.index],
            **extra,
        }
        results = []
        for i, size in enumerate(image_sizes):
            keep = self.valid[i].nonzero()[:, 0]
            instances = Instances(tuple(size))
            instances.pred_boxes = Boxes(self.boxes[i, keep])
            for name, value in fields.items():
                instances.set(name, value[i, keep])
            results.append(instances)
        return results


def detect(
    output: HeadOutput,
    locations: Locations,
    *,
    score_threshold: float,
    pre_nms_topk: int,
    post_nms_topk: int,
    nms_threshold: float,
    threshold_with_quality: bool,
) -> Detections:
    """Decode, select and suppress, all images and levels together.

    Args:
        score_threshold: compared with the class probability, times the quality if ``threshold_with_quality``.
        pre_nms_topk: candidates kept per level.
        post_nms_topk: D; not positive: all that survive.
        nms_threshold: IoU above which the worse of two boxes of a class is dropped.
    """
    score, index, classes = _candidates(output, score_threshold, pre_nms_topk, threshold_with_quality)
    distances = torch.cat([x.flatten(2) for x in output.distances], dim=2)  # (N, 4, L)
    ltrb = distances.gather(2, index[:, None].expand(-1, 4, -1)).transpose(1, 2)  # (N, K, 4)
    ltrb = ltrb * locations.stride[index][..., None]
    xy = locations.xy[index]
    boxes = torch.cat([xy - ltrb[..., :2], xy + ltrb[..., 2:]], dim=2)

    keep = nms_mask(boxes, classes, score > 0, nms_threshold)
    count = score.shape[1] if post_nms_topk <= 0 else min(post_nms_topk, score.shape[1])
    # A stable sort of "dropped" brings the survivors to the front in their order.
    chosen = (~keep).to(torch.uint8).sort(dim=1, stable=True).indices[:, :count]  # (N, D)
    return Detections(
        boxes=boxes.gather(1, chosen[..., None].expand(-1, -1, 4)),
        scores=score.gather(1, chosen).clamp(min=0).sqrt(),
        classes=classes.gather(1, chosen),
        index=index.gather(1, chosen),
        valid=keep.gather(1, chosen),
    )


def _candidates(
    output: HeadOutput, threshold: float, topk: int, threshold_with_quality: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the best ``topk`` entries (location, class) of each level, the best of all levels first.

    The best k entries of a level are in the k locations whose best class is best, so only those locations' classes are
    scored. What each level does not need alone is done for all levels at once, as a GPU's time goes into launches.

    Returns:
        (N, K) each: products of the probabilities, -1 for those below the threshold; locations in [0, L); classes.
    """
    levels = [x.flatten(2) for x in output.logits]  # (N, C, L_l)
    num_classes, sizes = levels[0].shape[1], [x.shape[2] for x in levels]
    quality = torch.cat([x.flatten(1) for x in output.quality], dim=1).float().sigmoid()  # (N, L)

    def score(logit: torch.Tensor, quality: torch.Tensor) -> torch.Tensor:
        probability = logit.float().sigmoid()
        product = probability * quality
        passed = (product if threshold_with_quality else probability) > threshold
        return product.masked_fill(~passed, -1)

    best = score(torch.cat([x.amax(dim=1) for x in levels], dim=1), quality)  # (N, L)
    locations, picked, start = [], [], 0
    for logits, values in zip(levels, best.split(sizes, dim=1)):
        location = values.topk(min(topk, values.shape[1]), dim=1, sorted=False).indices  # (N, k)
        picked.append(logits.gather(2, location[:, None].expand(-1, num_classes, -1)))  # (N, C, k)
        locations.append(location + start if locations else location)
        start += values.shape[1]
    location = torch.cat(locations, dim=1)  # (N, all k)
    entries = score(torch.cat(picked, dim=2), quality.gather(1, location)[:, None])  # (N, C, all k)
    entries = entries.transpose(1, 2).flatten(1)  # (N, all k C)
    scores, places, start = [], [], 0
    for values in entries.split([x.shape[2] * num_classes for x in picked], dim=1):
        value, place = values.topk(min(topk, values.shape[1]), dim=1)
        scores.append(value)
        places.append(place + start if places else place)
        start += values.shape[1]
    value, order = torch.cat(scores, dim=1).sort(dim=1, descending=True, stable=True)  # (N, K)
    place = torch.cat(places, dim=1).gather(1, order)
    row = place.div(num_classes, rounding_mode="floor")
    return value, location.gather(1, row), place - row * num_classes

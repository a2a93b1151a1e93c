"""The unified panoptic layer (thesis 5.4.3, equation 5.9): stuff and instances compete for pixels in one softmax.

N images, C channels of the bases F, S stuff classes, G instances of one image, E numbers of an embedding, P positive
locations of a batch, h x w the bases of one image, s their stride, H x W an image or a result.

Stuff class c has the static column c of W_pano. Instance i has the mean of its embeddings or, if the embedding is not a
plain vector, the weights of its prediction module at each place.

Choices that the thesis does not specify:

- Targets. A pixel belongs to its stuff class, or else to the smallest instance over it. It is ignored where the labels
  say so, in crowds, and where its instance has no positive location and so no embedding (N_i = 0).
- Loss. Cross-entropy of the softmax over S + G channels, at the stride of the bases, where inference takes the argmax.
  It is the mean over the pixels of a batch, or over its segments (LOSS_BALANCE).
- Region. An instance competes only inside its box (IN_BOX_TRAIN, IN_BOX_TEST), since equation 5.9 contains no position
  and similar objects have similar logits.
- Memory. Strips of rows are computed one by one, and again in the backward pass, so the number of instances adds to
  memory at most one strip of about ``STRIP`` logits.
"""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from ...d2.structures import BitMasks, Instances
from ..checks import check_choice
from .instance_prediction import InstancePrediction

__all__ = ["UnifiedPanoptic", "keep_in_boxes", "mean_embeddings", "panoptic_targets"]

STRIP = 2**22  # logits computed at a time in training: 16 MiB in single precision
IGNORED = -1
NEVER = -1e4  # a logit that wins nowhere; finite, so that the difference of two is not NaN


class UnifiedPanoptic(nn.Module):
    """Static columns for stuff, dynamic ones for instances, and the loss on both."""

    def __init__(
        self,
        *,
        width: int,
        num_stuff: int,
        stride: int,
        ignore_value: int = 255,
        loss_weight: float = 0.5,
        loss_balance: str = "pixel",
        in_box_train: bool = True,
        in_box_test: bool = True,
    ):
        """
        Args:
            width: C.
            num_stuff: S.
            stride: s.
            ignore_value: label of pixels to ignore.
            loss_balance: "pixel" or "segment": what has equal weight in the loss.
            in_box_train, in_box_test: whether an instance competes only for the pixels of its box.
        """
        super().__init__()
        if num_stuff < 1:
            raise ValueError(
                "MODEL.SEM_SEG_HEAD.NUM_CLASSES must be 2 or more, one class for all things and one for each kind of "
                f"stuff; got {num_stuff + 1}"
            )
        check_choice("MODEL.DR1MASK.PANOPTIC.LOSS_BALANCE", loss_balance, ("pixel", "segment"))
        self.num_stuff = num_stuff
        self.stride = stride
        self.ignore_value = ignore_value
        self.loss_weight = loss_weight
        self.loss_balance = loss_balance
        self.in_box_train, self.in_box_test = in_box_train, in_box_test
        self.stuff = nn.Conv2d(width, num_stuff, 1)
        nn.init.normal_(self.stuff.weight, std=0.01)
        nn.init.zeros_(self.stuff.bias)

    @classmethod
    def from_config(cls, cfg, *, width: int, stride: int) -> "UnifiedPanoptic":
        head, options = cfg.MODEL.SEM_SEG_HEAD, cfg.MODEL.DR1MASK.PANOPTIC
        return cls(
            width=width,
            num_stuff=head.NUM_CLASSES - 1,
            stride=stride,
            ignore_value=head.IGNORE_VALUE,
            loss_weight=options.LOSS_WEIGHT,
            loss_balance=options.LOSS_BALANCE,
            in_box_train=options.IN_BOX_TRAIN,
            in_box_test=options.IN_BOX_TEST,
        )

    def logits(
        self,
        prediction: InstancePrediction,
        bases: torch.Tensor,
        embeddings: torch.Tensor,
        boxes: torch.Tensor,
        first_row: int = 0,
    ) -> torch.Tensor:
        """Return Y_pano of one image, or of a strip of its rows: (S + G, h, w). :meth:`keep_in_boxes` adds regions.

        Args:
            prediction: makes logits of embeddings.
            bases: (C, h, w).
            embeddings: (G, E).
            boxes: (G, 4), in pixels of the network's input.
            first_row: the strip's first row in the image.
        """
        pixels = bases.flatten(1)  # (C, h w)
        stuff = torch.addmm(self.stuff.bias[:, None], self.stuff.weight.flatten(1), pixels)
        stuff = stuff.unflatten(1, bases.shape[1:])  # (S, h, w)
        if not len(embeddings):
            return stuff
        return torch.cat([stuff, prediction.over_image(bases, embeddings, boxes, first_row)])

    def keep_in_boxes(self, logits: torch.Tensor, boxes: torch.Tensor, first_row: int = 0) -> torch.Tensor:
        """Let instances lose outside their boxes: (S + G, h, w), (G, 4) -> (S + G, h, w)."""
        return keep_in_boxes(logits, boxes, self.stride, first_row)

    def loss(
        self,
        prediction: InstancePrediction,
        bases: torch.Tensor,
        embeddings: torch.Tensor,
        objects: torch.Tensor,
        gt_instances: Sequence[Instances],
        labels: Sequence[torch.Tensor],
    ) -> dict[str, torch.Tensor]:
        """Return ``loss_panoptic``.

        Args:
            bases: (N, C, h, w), of the padded images.
            embeddings: (P, E), of the positive locations.
            objects: (P,) int64, the object of each, counted through the batch.
            gt_instances: with ``gt_boxes`` and ``gt_masks``, one per image.
            labels: (H, W) int64 for each image: 0 for things, stuff classes from 1 on, or ``ignore_value``.
        """
        counts = [len(x) for x in gt_instances]
        means, found = mean_embeddings(embeddings, objects, sum(counts))
        total = (bases.sum() + means.sum() + self.stuff.weight.sum() + self.stuff.bias.sum()) * 0
        norm = bases.new_zeros(())
        per_image = zip(bases, means.split(counts), found.split(counts), gt_instances, labels)
        for feature, mean, present, instances, label in per_image:
            target = panoptic_targets(instances, label, self.num_stuff, self.stride, self.ignore_value, present)
            height, width = target.shape
            weight = self._weights(target)
            # Targets count only instances with an embedding.
            mean, boxes = mean[present], instances.gt_boxes.tensor[present]
            rows = max(1, STRIP // (max(1, self.num_stuff + 4 * len(mean)) * width))
            for first in range(0, height, rows):
                strip = slice(first, min(first + rows, height))
                total = total + checkpoint(
                    self._strip_loss, prediction, feature[:, strip, :width], mean, boxes, first, target[strip],
                    weight[strip], use_reentrant=False,
                )  # fmt: skip
            norm = norm + weight.sum()
        return {"loss_panoptic": total / norm.clamp(min=1) * self.loss_weight}

    def _strip_loss(self, prediction, bases, embeddings, boxes, first_row, target, weight) -> torch.Tensor:
        logits = self.logits(prediction, bases, embeddings, boxes, first_row).float()
        if self.in_box_train:
            logits = self.keep_in_boxes(logits, boxes, first_row)
        losses = F.cross_entropy(logits[None], target[None], ignore_index=IGNORED, reduction="none")[0]
        return (losses * weight).sum()

    def _weights(self, target: torch.Tensor) -> torch.Tensor:
        """Return the weight of each pixel of one image's targets, (h, w); 0 where they are ignored."""
        counted = target != IGNORED
        if self.loss_balance == "pixel":
            return counted.float()
        _, segment, area = target.unique(return_inverse=True, return_counts=True)
        return counted / area[segment].float()


def keep_in_boxes(logits: torch.Tensor, boxes: torch.Tensor, stride: int, first_row: int = 0) -> torch.Tensor:
    """Let instances lose outside their boxes: (S + G, h, w), (G, 4) -> (S + G, h, w)."""
    ys, xs = places(*logits.shape[1:], stride, boxes.device, first_row)
    stuff, things = logits.split([logits.shape[0] - len(boxes), len(boxes)])
    return torch.cat([stuff, things.masked_fill(~inside(boxes, ys, xs), NEVER)])


def places(
    height: int, width: int, stride: int, device: torch.device, first_row: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the centers of cells, in pixels: ys (height,) and xs (width,)."""
    ys = (torch.arange(height, device=device) + (first_row + 0.5)) * stride
    return ys, (torch.arange(width, device=device) + 0.5) * stride


def inside(boxes: torch.Tensor, ys: torch.Tensor, xs: torch.Tensor) -> torch.Tensor:
    """Return which places are in which box: (G, 4), (h,), (w,) -> (G, h, w) bool."""
    x0, y0, x1, y1 = (boxes[:, i, None] for i in range(4))  # (G, 1)
    return ((ys >= y0) & (ys <= y1))[:, :, None] & ((xs >= x0) & (xs <= x1))[:, None, :]


def mean_embeddings(embeddings: torch.Tensor, objects: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the mean embedding of each object (section 5.4.3).

    Args:
        embeddings: (P, E).
        objects: (P,) int64 in [0, count).

    Returns:
        (count, E), zeros for an object without embeddings, and (count,) bool, whether it has any.
    """
    precise = embeddings.to(torch.promote_types(embeddings.dtype, torch.float32))
    sums = precise.new_zeros(count, embeddings.shape[1]).index_add(0, objects, precise)
    number = torch.zeros(count, device=objects.device).index_add(0, objects, torch.ones_like(objects).float())
    return (sums / number.clamp(min=1)[:, None]).to(embeddings.dtype), number > 0


def panoptic_targets(
    instances: Instances, labels: torch.Tensor, num_stuff: int, stride: int, ignore_value: int, present: torch.Tensor
) -> torch.Tensor:
    """Return the target channel of each place of one image's bases.

    Args:
        instances: with ``gt_boxes`` and ``gt_masks``, of G instances. Masks are clipped to the boxes: rounded
            masks extend beyond them, where their instance cannot compete and the loss would be huge.
        labels: (H, W) int64: 0 for things, stuff classes from 1 on, or ``ignore_value``.
        present: (G,) bool, the instances that have a channel.

    Returns:
        (ceil(H / stride), ceil(W / stride)) int64: stuff class - 1, or num_stuff + the instance's place among those
        present, or -1.
    """
    height, width = labels.shape
    labels = labels[stride // 2 :: stride, stride // 2 :: stride]
    size = (-(-height // stride), -(-width // stride))
    # A last cell that is cut in half has its center outside.
    labels = F.pad(labels, (0, size[1] - labels.shape[1], 0, size[0] - labels.shape[0]), value=ignore_value)
    target = torch.where((labels == ignore_value) | (labels == 0), IGNORED, labels - 1)
    if not len(instances):
        return target
    masks = _masks_at(instances.gt_masks, stride, size).to(labels.device)  # (G, h, w)
    masks = masks & inside(instances.gt_boxes.tensor, *places(*size, stride, labels.device))
    # The smallest instance over a pixel gets it; a large one would leave it nothing.
    order = masks.flatten(1).sum(dim=1).argsort(stable=True)
    owner = order[masks[order].to(torch.uint8).argmax(dim=0)]  # (h, w), the first in order
    channel = torch.where(present, num_stuff + present.cumsum(0) - 1, IGNORED)
    return torch.where((labels == 0) & masks.any(dim=0), channel[owner], target)


def _masks_at(masks, stride: int, size: tuple[int, int]) -> torch.Tensor:
    """Return masks of one image at a stride, (G, h, w) bool: bitmaps are sampled, polygons drawn at that scale."""
    if hasattr(masks, "polygons"):
        small = [[part / stride for part in parts] for parts in masks.polygons]
        return BitMasks.from_polygon_masks(small, *size).tensor
    sampled = masks.tensor[:, stride // 2 :: stride, stride // 2 :: stride]
    return F.pad(sampled, (0, size[1] - sampled.shape[2], 0, size[0] - sampled.shape[1]))

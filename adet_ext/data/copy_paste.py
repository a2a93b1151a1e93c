"""Simple copy-paste (Ghiasi et al., 2021): instances of one training image are pasted onto another.

H, W the height and width of the sample; R its instances; Q those that are pasted.
"""

import numpy as np
import torch

from ..d2.structures import BitMasks, Instances
from ..errors import UserError

__all__ = ["paste_instances"]

_KEPT = 0.2  # an instance of which less is left visible is dropped


def paste_instances(sample: dict, source: dict, where: str = "an image") -> dict:
    """Return ``sample`` with a random non-empty subset of ``source``'s instances pasted onto it.

    Both are as :class:`~adet_ext.data.mapper.AdetDatasetMapper` gives them in training, with BitMasks. The instances
    are shifted together to a random place, by whole pixels; what is beyond the border is cut. Instances behind them
    lose the pixels that are hidden, and are dropped where less than a fifth is left. Boxes are fitted to the masks
    again; semantic labels are pasted too.

    The result depends only on the state of NumPy's global generator.

    Raises:
        UserError: masks are polygons.
    """
    ours, theirs = sample["instances"], source["instances"]
    if not all(x.has("gt_masks") and isinstance(x.gt_masks, BitMasks) for x in (ours, theirs)):
        raise UserError(
            f"INPUT.COPY_PASTE needs MODEL.MASK_ON True and INPUT.MASK_FORMAT bitmask; got others for {where}"
        )
    chosen = np.random.rand(len(theirs)) < 0.5
    if not len(theirs):
        return sample
    if not chosen.any():
        chosen[np.random.randint(len(theirs))] = True
    chosen = torch.from_numpy(chosen)
    size = ours.image_size
    down, right = (
        _shift(theirs.gt_masks.tensor[chosen].any(0).any(axis), length) for axis, length in ((1, size[0]), (0, size[1]))
    )
    masks = _moved(theirs.gt_masks.tensor[chosen], down, right, size)  # [Q, H, W]
    cover = masks.any(0)
    image = torch.where(cover, _moved(source["image"], down, right, size), sample["image"])
    visible = ours.gt_masks.tensor & ~cover  # [R, H, W]
    before, after = (m.flatten(1).sum(1) for m in (ours.gt_masks.tensor, visible))
    kept = after >= _KEPT * before
    seen = masks.flatten(1).any(1)
    instances = Instances(size)
    instances.gt_masks = BitMasks(torch.cat([visible[kept], masks[seen]]))
    instances.gt_classes = torch.cat([ours.gt_classes[kept], theirs.gt_classes[chosen][seen]])
    instances.gt_boxes = instances.gt_masks.get_bounding_boxes()
    pasted = {**sample, "image": image, "instances": instances}
    for labels in {"basis_sem", "sem_seg"} & sample.keys() & source.keys():
        pasted[labels] = torch.where(cover, _moved(source[labels], down, right, size), sample[labels])
    return pasted


def _shift(occupied: torch.Tensor, length: int) -> int:
    """Draw by how much a row of pixels moves so that what is occupied stays within ``length``, if it fits."""
    places = occupied.nonzero().flatten()
    if not len(places):
        return 0
    first, last = int(places[0]), int(places[-1])
    low, high = sorted((-first, length - 1 - last))
    return int(np.random.randint(low, high + 1))


def _moved(x: torch.Tensor, down: int, right: int, size: tuple[int, int]) -> torch.Tensor:
    """Return ``x`` [..., h, w] on a canvas [..., H, W] of zeros, moved by (down, right)."""
    canvas = x.new_zeros(*x.shape[:-2], *size)
    spans = []
    for shift, length, target in ((down, x.shape[-2], size[0]), (right, x.shape[-1], size[1])):
        low, high = max(shift, 0), min(shift + length, target)
        spans.append((slice(low, max(high, low)), slice(low - shift, max(high, low) - shift)))
    (to_y, from_y), (to_x, from_x) = spans
    canvas[..., to_y, to_x] = x[..., from_y, from_x]
    return canvas

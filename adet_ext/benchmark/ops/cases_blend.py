"""Cases of blending: 100 instances, BlendMask's and DR1Mask's bases at 800 x 1088 and 800 x 1333, padded to 32."""

import torch
from torch.nn import functional as F

from ...d2.layers import paste_masks_in_image
from ...layers.blend_factored import blend_factored
from ...layers.blend_masks import blend_masks
from ...layers.blend_reference import crop_bases, merge_crops
from ...layers.paste_masks import paste_masks
from .case import Case, Contest

__all__ = ["cases"]

BOXES, SIZE, SIDE, BASES, RANK, WIDTH = 100, 56, 14, 4, 4, 32
# H, W of the bases, a quarter of the image; the image's own are four times that.
MAPS = ((200, 272), (200, 336))
CROP = "torchvision roi_align, F.interpolate, softmax, multiply, sum"
CROP_FACTORED = "torchvision roi_align, einsum of the projection and of the factors, multiply, sum"


def cases() -> list[Case]:
    found = []
    target = {"cpu": 2.0, "cuda": 5.0}
    for height, width in MAPS:
        shape = f"{BOXES} boxes, {BASES}x{height}x{width}, M {SIDE}, R {SIZE}"
        found.append(Case("blend", shape, CROP, _blend(height, width), target))
        found.append(Case("blend backward", shape, CROP, _blend(height, width, backward=True), {}))
        shape = f"{BOXES} boxes, {WIDTH}x{height}x{width}, K {BASES}, rank {RANK}, R {SIZE}"
        found.append(Case("blend_factored", shape, CROP_FACTORED, _factored(height, width), target))
        found.append(Case("blend_factored backward", shape, CROP_FACTORED, _factored(height, width, backward=True), {}))
    shape = f"{BOXES} masks of {SIZE}x{SIZE} into 800x1088"
    found.append(Case("paste_masks", shape, "paste_masks_in_image of the engine", _paste, {}))
    return found


def _boxes(height: int, width: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """(100, 4) boxes of 20 to 600 pixels in an image of four times the size, and (100,) zeros."""
    limits = torch.tensor([4.0 * width, 4.0 * height])
    extent = torch.exp(torch.rand(BOXES, 2) * 3.4 + 3)
    centre = torch.rand(BOXES, 2) * limits
    boxes = torch.cat([(centre - extent / 2).clamp(min=0), (centre + extent / 2).minimum(limits)], dim=1)
    return boxes.to(device), torch.zeros(BOXES, dtype=torch.int64, device=device)


def _contest(ours, theirs, inputs: list[torch.Tensor], backward: bool) -> Contest:
    """``inputs`` are those that get gradients; both sides take the same tensors."""
    out = BOXES * SIZE * SIZE
    traffic = (sum(t.numel() for t in inputs) + out) * inputs[0].element_size()
    if not backward:
        return Contest(ours, theirs, traffic)
    for t in inputs:
        t.requires_grad_()
    grad = torch.randn(BOXES, SIZE, SIZE, device=inputs[0].device, dtype=inputs[0].dtype)
    return Contest(
        lambda: torch.autograd.grad(ours(), inputs, grad),
        lambda: torch.autograd.grad(theirs(), inputs, grad),
        3 * traffic,
    )


def _blend(height: int, width: int, *, backward: bool = False):
    def make(device: torch.device, dtype: torch.dtype) -> Contest:
        torch.manual_seed(0)
        bases = torch.randn(1, BASES, height, width).to(device, dtype)
        attentions = torch.randn(BOXES, BASES, SIDE, SIDE).to(device, dtype)
        where = _boxes(height, width, device)
        size = {"size": SIZE, "scale": 1 / 4}
        return _contest(
            lambda: blend_masks(bases, attentions, *where, **size),
            lambda: merge_crops(crop_bases(bases, *where, **size), attentions),
            [bases, attentions],
            backward,
        )

    return make


def _factored(height: int, width: int, *, backward: bool = False):
    def make(device: torch.device, dtype: torch.dtype) -> Contest:
        torch.manual_seed(0)
        # as the convolutions leave them
        bases = torch.randn(1, WIDTH, height, width).to(device, dtype).contiguous(memory_format=torch.channels_last)
        t = torch.randn(BOXES, BASES * WIDTH).to(device, dtype) * WIDTH**-0.5
        sigma = torch.randn(BOXES, BASES * RANK).to(device, dtype)
        u, v = (torch.randn(BASES, RANK, SIDE).to(device, dtype) for _ in range(2))
        where = _boxes(height, width, device)
        size = {"size": SIZE, "scale": 1 / 4}

        def composition() -> torch.Tensor:
            crops = crop_bases(bases, *where, **size)  # (D, C, R, R)
            projected = torch.einsum("dkc,dcyx->dkyx", t.view(BOXES, BASES, WIDTH), crops)
            attentions = torch.einsum("dkr,krm,krn->dkmn", sigma.view(BOXES, BASES, RANK), u, v)
            return (F.interpolate(attentions, SIZE, mode="bilinear") * projected).sum(dim=1)

        return _contest(
            lambda: blend_factored(bases, t, sigma, u, v, *where, **size),
            composition,
            [bases, t, sigma, u, v],
            backward,
        )

    return make


def _paste(device: torch.device, dtype: torch.dtype) -> Contest:
    torch.manual_seed(0)
    masks = torch.rand(BOXES, SIZE, SIZE).to(device, dtype)
    boxes, _ = _boxes(200, 272, device)
    image = (800, 1088)
    area = (boxes[:, 2:] - boxes[:, :2]).prod(dim=1).sum().item()
    return Contest(
        lambda: paste_masks(masks, boxes, image),
        lambda: paste_masks_in_image(masks, boxes, image, 0.5),
        int(area) + masks.numel() * masks.element_size(),
        same=False,  # but for pixels whose value is the threshold
    )

"""The inner life of a BlendMask as one picture: its bases, its attentions, and the masks they blend to.

Shapes: K bases, h, w their height and width, R instances, M attention side, H, W image height and width.
The bases lie over the whole image at a stride of about H / h pixels; attentions lie over their boxes.
"""

from collections.abc import Sequence

import cv2
import numpy as np
import torch
import torch.nn.functional as F

from . import drawing
from .drawing import Colour

__all__ = ["BASIS_COLOURS", "attention_picture", "basis_picture", "draw_blending"]

# Red, blue, yellow, green: the thesis' figure 4.3 names its four bases so. More follow for K = 8.
BASIS_COLOURS: tuple[Colour, ...] = (
    (235, 60, 55), (45, 120, 240), (250, 205, 30), (40, 190, 95),
    (180, 90, 240), (250, 140, 40), (25, 200, 205), (245, 110, 180),
)  # fmt: skip


def basis_colour(index: int) -> Colour:
    """The colour that stands for basis ``index``."""
    return BASIS_COLOURS[index % len(BASIS_COLOURS)]


def basis_picture(basis: torch.Tensor, colour: Colour, size: tuple[int, int]) -> np.ndarray:
    """Return one basis as a heat map: black at its low end, through ``colour``, to white at its high end.

    Args:
        basis: float [h, w]. The ends are its 1st and 99th percentiles, so that one outlier hides nothing.
        colour: the hue of the map.
        size: (H, W) of the picture; the basis is interpolated bilinearly.
    """
    values = basis.detach().float().cpu()
    low, high = torch.quantile(values.flatten()[:: max(1, values.numel() // 10**6)], torch.tensor([0.01, 0.99]))
    return drawing.heat_map(values.numpy(), colour, size, float(low), float(high))


def mixed_colours(weights: torch.Tensor) -> np.ndarray:
    """Return RGB uint8 [H, W, 3]: the bases' colours, mixed as float weights [K, H, W] say (of sum at most one)."""
    colours = torch.tensor([basis_colour(k) for k in range(len(weights))], dtype=torch.float)
    return torch.einsum("khw,kc->hwc", weights, colours).clamp(0, 255).numpy().astype(np.uint8)


def attention_picture(
    image: np.ndarray, attentions: torch.Tensor, boxes: torch.Tensor, *, masks: torch.Tensor | None = None
) -> np.ndarray:
    """Return a dimmed ``image`` with the attentions in their boxes, each point the mix of its bases' colours.

    Args:
        image: RGB uint8 [H, W, 3].
        attentions: float [R, K, M, M], before the softmax over K, which is taken here (a sigmoid where K is 1).
        boxes: float [R, 4], x0, y0, x1, y1 in pixels of ``image``. Later instances are painted over earlier ones.
        masks: bool [R, H, W]; outlined where given.
    """
    height, width = image.shape[:2]
    grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    canvas = (grey * 0.45).astype(np.uint8)
    count = attentions.shape[1]
    for index, (attention, box) in enumerate(zip(attentions.detach().float().cpu(), boxes.cpu().tolist())):
        x0, y0 = max(0, round(box[0])), max(0, round(box[1]))
        x1, y1 = min(width, round(box[2])), min(height, round(box[3]))
        if x1 <= x0 or y1 <= y0:
            continue
        large = F.interpolate(attention[None], size=(y1 - y0, x1 - x0), mode="bilinear", align_corners=False)[0]
        weights = large.softmax(0) if count > 1 else large.sigmoid()
        mixed = mixed_colours(weights)
        patch = canvas[y0:y1, x0:x1]
        canvas[y0:y1, x0:x1] = (0.12 * patch + 0.88 * mixed).clip(0, 255).astype(np.uint8)
        drawing.draw_box(canvas, (x0, y0, x1, y1), (255, 255, 255), 1)
        if masks is not None:
            drawing.outline_mask(canvas, masks[index].cpu().numpy(), (15, 16, 20), 1)
    return canvas


def draw_blending(
    image: np.ndarray,
    bases: torch.Tensor,
    attentions: torch.Tensor,
    boxes: torch.Tensor,
    *,
    masks: torch.Tensor | None = None,
    prediction: np.ndarray | None = None,
    scale: int = 1,
    title: str = "",
) -> np.ndarray:
    """Return one sheet: the prediction, the K bases as heat maps, and the attentions in the bases' colours.

    Args:
        image: RGB uint8 [H, W, 3].
        bases: float [K, h, w], over the whole of ``image`` (padding cut off).
        attentions: float [R, K, M, M] or [R, K * M * M].
        boxes: float [R, 4] in pixels of ``image``.
        masks: bool [R, H, W].
        prediction: a picture of the prediction, of the enlarged size; the image itself where there is none.
        scale: enlargement of every panel.

    Raises:
        ValueError: the attentions do not fit the number of bases.
    """
    count = bases.shape[0]
    if attentions.dim() == 2:
        side = round((attentions.shape[1] / count) ** 0.5)
        if side * side * count != attentions.shape[1]:
            raise ValueError(f"attentions of {attentions.shape[1]} numbers are no square maps for {count} bases")
        attentions = attentions.reshape(-1, count, side, side)  # R, K, M, M
    elif attentions.shape[1] != count:
        raise ValueError(f"attentions for {attentions.shape[1]} bases, but there are {count} bases")
    large = drawing.enlarge(image, scale)
    size = large.shape[:2]
    large_masks = None
    if masks is not None:
        large_masks = torch.from_numpy(
            np.stack([drawing.enlarge_mask(mask, scale) for mask in masks.cpu().numpy()])
            if len(masks)
            else np.zeros((0, *size), dtype=bool)
        )
    panels: list[np.ndarray] = [large if prediction is None else prediction]
    captions = ["image" if prediction is None else "prediction"]
    for k, basis in enumerate(bases):
        panels.append(_chip(basis_picture(basis, basis_colour(k), size), basis_colour(k)))
        captions.append(f"basis {k + 1}   {float(basis.min()):.1f} … {float(basis.max()):.1f}")
    panels.append(attention_picture(large, attentions, boxes * scale, masks=large_masks))
    captions.append("attentions, by colour of basis")
    return drawing.sheet(panels, captions, columns=_columns(len(panels)), title=title)


def _columns(count: int) -> int:
    """Six panels (K = 4) in two rows of three; few panels in one row; else rows of four or five."""
    return {6: 3, 10: 5}.get(count, min(count, 4))


def _chip(picture: np.ndarray, colour: Sequence[int]) -> np.ndarray:
    """Mark a heat map with its basis' colour: a bar along the top, as a key to the attentions."""
    bar = max(4, picture.shape[0] // 48)
    picture[:bar] = colour
    return picture

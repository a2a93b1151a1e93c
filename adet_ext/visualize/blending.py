"""Visualize what masks are blended of, as one picture: bases, attentions, and the masks.

Shapes: K bases, h, w their height and width, D instances, M attention side, H, W image height and width.
The bases span the whole image at a stride of about H / h pixels; attentions span their boxes.
"""

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from torch.nn import functional as F

from . import drawing
from .drawing import Color

__all__ = ["BASIS_COLORS", "attention_picture", "basis_picture", "draw_blending"]

# Red, blue, yellow, green, as the four bases in the thesis' Figure 4.3; more for K = 8.
BASIS_COLORS: tuple[Color, ...] = (
    (235, 60, 55), (45, 120, 240), (250, 205, 30), (40, 190, 95),
    (180, 90, 240), (250, 140, 40), (25, 200, 205), (245, 110, 180),
)  # fmt: skip


def basis_color(index: int) -> Color:
    """Return the color of basis ``index``."""
    return BASIS_COLORS[index % len(BASIS_COLORS)]


def basis_picture(basis: torch.Tensor, color: Color, size: tuple[int, int]) -> np.ndarray:
    """Return one basis as a heat map: black at its low end, through ``color``, to white at its high end.

    Args:
        basis: float (h, w). The ends are its 1st and 99th percentiles, so that outliers do not hide the rest.
        color: the hue of the map.
        size: (H, W) of the picture; the basis is interpolated bilinearly.
    """
    values = basis.detach().float().cpu()
    low, high = torch.quantile(values.flatten()[:: max(1, values.numel() // 10**6)], torch.tensor([0.01, 0.99]))
    return drawing.heat_map(values.numpy(), color, size, float(low), float(high))


def mixed_colors(weights: torch.Tensor) -> np.ndarray:
    """Return RGB uint8 (H, W, 3): the bases' colors, mixed by float weights (K, H, W) of sum at most one."""
    colors = torch.tensor([basis_color(k) for k in range(len(weights))], dtype=torch.float)
    return torch.einsum("khw,kc->hwc", weights, colors).clamp(0, 255).numpy().astype(np.uint8)


def attention_picture(
    image: np.ndarray, attentions: torch.Tensor, boxes: torch.Tensor, *, masks: torch.Tensor | None = None
) -> np.ndarray:
    """Return a dimmed ``image`` with the attentions in their boxes, each point the mix of its bases' colors.

    Args:
        image: RGB uint8 (H, W, 3).
        attentions: float (D, K, M, M), before the softmax over K (a sigmoid if K is 1), which is taken here.
        boxes: float (D, 4), x0, y0, x1, y1 in pixels of ``image``. Later instances are painted over earlier ones.
        masks: bool (D, H, W); outlined if given.
    """
    height, width = image.shape[:2]
    gray = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    canvas = (gray * 0.45).astype(np.uint8)
    count = attentions.shape[1]
    for index, (attention, box) in enumerate(zip(attentions.detach().float().cpu(), boxes.cpu().tolist())):
        x0, y0 = max(0, round(box[0])), max(0, round(box[1]))
        x1, y1 = min(width, round(box[2])), min(height, round(box[3]))
        if x1 <= x0 or y1 <= y0:
            continue
        large = F.interpolate(attention[None], size=(y1 - y0, x1 - x0), mode="bilinear", align_corners=False)[0]
        weights = large.softmax(0) if count > 1 else large.sigmoid()
        mixed = mixed_colors(weights)
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
    """Return one sheet: the prediction, the K bases as heat maps, and the attentions in the bases' colors.

    Args:
        image: RGB uint8 (H, W, 3).
        bases: float (K, h, w), over the whole of ``image`` (padding cut off).
        attentions: float (D, K, M, M) or (D, K * M * M).
        boxes: float (D, 4) in pixels of ``image``.
        masks: bool (D, H, W).
        prediction: a picture of the prediction, of the enlarged size; by default the image itself.
        scale: enlargement of every panel.

    Raises:
        ValueError: the attentions do not match the number of bases.
    """
    count = bases.shape[0]
    if attentions.dim() == 2:
        side = round((attentions.shape[1] / count) ** 0.5)
        if side * side * count != attentions.shape[1]:
            raise ValueError(f"attentions must be square maps for {count} bases; got {attentions.shape[1]} numbers")
        attentions = attentions.reshape(-1, count, side, side)  # (D, K, M, M)
    elif attentions.shape[1] != count:
        raise ValueError(f"attentions must be for {count} bases; got {attentions.shape[1]}")
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
        panels.append(_chip(basis_picture(basis, basis_color(k), size), basis_color(k)))
        captions.append(f"basis {k + 1}   {float(basis.min()):.1f} … {float(basis.max()):.1f}")
    panels.append(attention_picture(large, attentions, boxes * scale, masks=large_masks))
    captions.append("attentions, by color of basis")
    return drawing.sheet(panels, captions, columns=_columns(len(panels)), title=title)


def _columns(count: int) -> int:
    """Return the panels in a row: three for six (K = 4), five for ten, else at most four."""
    return {6: 3, 10: 5}.get(count, min(count, 4))


def _chip(picture: np.ndarray, color: Sequence[int]) -> np.ndarray:
    """Mark a heat map with a bar of its basis' color along the top, as a key to the attentions."""
    bar = max(4, picture.shape[0] // 48)
    picture[:bar] = color
    return picture

"""Draw sheets of small maps: bases, components of attentions, and the maps that masks are made of.

Shapes: C bases, h, w their height and width, K of them that attentions weight, r the rank, M the side of attentions,
R of masks, H, W image height and width. The maps of an instance span its box and have its proportions.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch

from . import drawing
from .blending import BASIS_COLORS, basis_color, basis_picture, mixed_colors

__all__ = ["InstanceMaps", "draw_bases", "draw_components", "draw_instance_maps"]

Panel = tuple[str, np.ndarray]  # with its caption

TILE = 160  # the longer side of a small map, in pixels
SMALL = {"gap": 8, "size": 12}  # of a sheet of such maps
SIGNS = "red is above zero, blue below"


@dataclasses.dataclass
class InstanceMaps:
    """The maps that one mask is made of. The mask is the sigmoid of ``logits``.

    Attributes:
        label: class and score.
        crop: RGB uint8 (H', W', 3), the image in the box.
        logits: float (R, R).
        channels: float (C,), the weights of the bases that the logits are the sum of; None with attentions.
        attentions: float (K, M, M), as predicted (Q of equation 5.8); None with channels.
        weights: float (K, R, R), the attentions after the softmax over K; None if there is no softmax.
        projected: float (K, R, R), the bases in the box (R of equation 5.7).
        products: float (K, R, R), whose sum the logits are.
    """

    label: str
    crop: np.ndarray
    logits: torch.Tensor
    channels: torch.Tensor | None = None
    attentions: torch.Tensor | None = None
    weights: torch.Tensor | None = None
    projected: torch.Tensor | None = None
    products: torch.Tensor | None = None


def draw_bases(bases: torch.Tensor, size: tuple[int, int], *, title: str = "") -> np.ndarray:
    """Return the bases as small heat maps, eight in a row, each with its range.

    Args:
        bases: float (C, h, w), over the whole image (padding cut off).
        size: (H, W) of the image, whose proportions the maps take.
    """
    size = _fitted(size)
    panels = [basis_picture(basis, BASIS_COLORS[1], size) for basis in bases]
    captions = [f"{d}:  {_range(basis)}" for d, basis in enumerate(bases, start=1)]
    return drawing.sheet(panels, captions, columns=8, title=title, **SMALL)


def draw_components(components: torch.Tensor) -> np.ndarray:
    """Return the components of factored attention, a row for each k and a column for each d (thesis Figure 5.5).

    Args:
        components: float (K, r, M, M), the outer products of u_kd and v_kd. Each has its own range, given in its
            caption, as every instance scales it.
    """
    panels = []
    for k, row in enumerate(components.detach().float().cpu(), start=1):
        for d, component in enumerate(row, start=1):
            limit = _limit(component)
            picture = drawing.signed_map(component.numpy(), limit, (TILE, TILE), cells=True)
            panels.append((f"k = {k}, d = {d}   ±{_short(limit)}", picture))
    return _sheet([panels], components.shape[1], f"components of attention: {SIGNS}")


def draw_instance_maps(instances: Sequence[InstanceMaps]) -> np.ndarray:
    """Return one sheet with some rows for each instance: the image in its box, the mask, and the maps that make it.

    Signed maps of one kind and instance share their range, so that their colors compare.

    Raises:
        ValueError: no instance, or instances of different models.
    """
    rows = [row for maps in instances for row in _rows(maps)]
    columns = {len(row) for row in rows}
    if len(columns) != 1:
        raise ValueError(f"instances must be all of one model, at least one; got rows of {sorted(columns)} maps")
    return _sheet(rows, columns.pop(), f"how masks come about: {SIGNS}")


def _rows(maps: InstanceMaps) -> list[list[Panel]]:
    size = _fitted(maps.crop.shape[:2])
    logits = _array(maps.logits)
    probability = 1 / (1 + np.exp(-drawing.resize(logits, size).clip(-50, 50)))
    image = drawing.resize(maps.crop, size)
    drawing.outline_mask(image, probability >= 0.5, (255, 255, 255), 1)
    image = (maps.label, image)
    mask = ("mask", np.repeat((255 * probability)[:, :, None], 3, axis=2).astype(np.uint8))
    total = (f"sum  {_range(maps.logits)}", drawing.signed_map(logits, _limit(maps.logits), size))
    if maps.channels is not None:
        limit = _limit(maps.channels)
        cells = np.pad(_array(maps.channels), (0, -len(maps.channels) % 8)).reshape(
            -1, 8
        )  # as draw_bases arranges them
        side = TILE // 8
        weights = drawing.signed_map(cells, limit, (side * len(cells), side * 8), cells=True)
        return [[image, (f"weights of bases  ±{_short(limit)}", weights), total, mask]]
    rows = [[image, *_signed("Q", maps.attentions, size, cells=True)]]
    if maps.weights is not None:
        large = torch.from_numpy(np.stack([drawing.resize(_array(one), size) for one in maps.weights]))
        heats = [
            (
                f"share {k + 1}  {float(one.min()):.2f} … {float(one.max()):.2f}",
                drawing.heat_map(_array(one), basis_color(k), size, 0, 1),
            )
            for k, one in enumerate(maps.weights)
        ]
        rows.append([("shares, by color", mixed_colors(large)), *heats])
    rows.append([mask, *_signed("R", maps.projected, size)])
    rows.append([total, *_signed("part ", maps.products, size)])
    return rows


def _signed(name: str, maps: torch.Tensor, size: tuple[int, int], *, cells: bool = False) -> list[Panel]:
    limit = _limit(maps)
    return [
        (f"{name}{k}  {_range(one)}", drawing.signed_map(_array(one), limit, size, cells=cells))
        for k, one in enumerate(maps, start=1)
    ]


def _sheet(rows: Sequence[Sequence[Panel]], columns: int, title: str) -> np.ndarray:
    panels = [panel for row in rows for panel in row]
    return drawing.sheet([_framed(p) for _, p in panels], [c for c, _ in panels], columns=columns, title=title, **SMALL)


def _framed(panel: np.ndarray) -> np.ndarray:
    """Draw a thin gray line around a panel, as a map may be as white as the paper."""
    panel = panel.copy()
    drawing.draw_box(panel, (0, 0, panel.shape[1], panel.shape[0]), (176, 180, 188), 1)
    return panel


def _array(values: torch.Tensor) -> np.ndarray:
    return values.detach().float().cpu().numpy()


def _limit(values: torch.Tensor) -> float:
    return max(float(values.detach().abs().max()), 1e-6)


def _fitted(size: Sequence[int]) -> tuple[int, int]:
    """Return the size of a small map with the proportions of ``size``, at least 12 pixels on the shorter side."""
    scale = TILE / max(size)
    return max(12, round(size[0] * scale)), max(12, round(size[1] * scale))


def _range(values: torch.Tensor) -> str:
    low, high = float(values.min()), float(values.max())
    return _short(low) if low == high else f"{_short(low)} … {_short(high)}"


def _short(value: float) -> str:
    text = f"{value:.0f}" if abs(value) >= 100 else f"{value:.2g}"
    return text.replace("-", "−")

"""Bilinear samples at the centres of evenly divided boxes (thesis 3.3.1, equations 3.2, 3.3 and 3.5).

N images, C channels, L levels, H_l x W_l the map of level l, D boxes, kh x kw points a box.

A location (x, y) with distances (l, t, r, b) to its box's sides has, by equations 3.2 and 3.3, its points at
x - l + (l + r)(2i + 1) / 2kw and y - t + (t + b)(2j + 1) / 2kh: they depend on the box alone. So the operator takes
boxes, and is RoIAlign with half-pixel correction and one sample a bin. In cells of a map with stride s, whose cell
0 has its centre at s / 2, a pixel coordinate p is p / s - 0.5.
"""

from collections.abc import Sequence

import torch

from .extension import kernel_devices
from .floats import FLOATS, sum_dtype

__all__ = ["roi_sample", "roi_sample_reference"]

_BORDERS = {"clamp": 0, "zeros": 1}  # as in csrc/bilinear.h
_NATIVE_DEVICES = kernel_devices("roi_sample")


def roi_sample(
    features: Sequence[torch.Tensor],
    boxes: torch.Tensor,
    image: torch.Tensor,
    level: torch.Tensor,
    *,
    strides: Sequence[float],
    size: tuple[int, int],
    border: str = "clamp",
) -> torch.Tensor:
    """Sample each box's level bilinearly at the centres of the kh x kw parts of the box.

    Gradients flow to the features and, where they require them, to the boxes; not a second time. Coordinates and sums
    are float32, with float64 features float64. The gradient of the features is the same from run to run on the CPU,
    and on CUDA under ``torch.use_deterministic_algorithms``.

    Args:
        features: one (N, C, H_l, W_l) map per level, all of one type: float32, float64, float16 or bfloat16. Maps
            whose channels lie innermost (channels-last) are read fastest.
        boxes: (D, 4) float, absolute (x0, y0, x1, y1) in pixels; may leave the image. A point that is not finite
            gives zeros.
        image: (D,) int64, the image of each box, in [0, N).
        level: (D,) int64, the map of each box, an index into ``features``.
        strides: of the maps, in pixels.
        size: (kh, kw).
        border: "clamp", the border's values up to one cell outside the map and zeros further out, as RoIAlign;
            "zeros", zeros outside, faded in over one cell, as deformable convolution.

    Returns:
        (D, C, kh, kw) of the features' type; channels innermost in memory if all features are so, else contiguous.

    Raises:
        TypeError, ValueError: an argument is not as above; the message names it.
        RuntimeError, IndexError: an image or a level is out of range. On CUDA, where the host does not wait to see,
            the box's samples are NaN instead.
    """
    features, strides, size = list(features), list(strides), tuple(size)
    _check(features, boxes, image, level, strides, size, border)
    if features[0].device.type not in _NATIVE_DEVICES:
        return roi_sample_reference(features, boxes, image, level, strides=strides, size=size, border=border)
    return torch.ops.adet_ext.roi_sample(
        features,
        boxes.to(sum_dtype(features[0].dtype)),
        image,
        level,
        [1 / s for s in strides],
        *size,
        _BORDERS[border],
        all(x.stride(1) == 1 and x.shape[1] > 1 for x in features),
    )


def roi_sample_reference(
    features: Sequence[torch.Tensor],
    boxes: torch.Tensor,
    image: torch.Tensor,
    level: torch.Tensor,
    *,
    strides: Sequence[float],
    size: tuple[int, int],
    border: str = "clamp",
) -> torch.Tensor:
    """:func:`roi_sample` in plain PyTorch: its specification, and what serves without the compiled operators."""
    kh, kw = size
    kind, device = sum_dtype(features[0].dtype), boxes.device
    heights, widths = [x.shape[-2] for x in features], [x.shape[-1] for x in features]
    area = [h * w for h, w in zip(heights, widths)]
    starts = [sum(area[:i]) for i in range(len(area))]
    table = torch.tensor([heights, widths, starts], device=device).index_select(1, level)  # (3, D)
    height, width, start = table[:, :, None, None]  # (D, 1, 1) each
    scale = (1 / torch.tensor(strides, device=device, dtype=kind))[level]  # (D,)
    low, high = (boxes.to(kind) * scale[:, None] - 0.5).split(2, dim=1)  # (D, 2) each: x, y
    step = (high - low) / torch.tensor([kw, kh], device=device, dtype=kind)

    def centres(axis: int, parts: int) -> torch.Tensor:
        i = torch.arange(parts, device=device, dtype=kind) + 0.5
        return low[:, axis, None] + i * step[:, axis, None]  # (D, parts)

    rows = _neighbours(centres(1, kh)[:, :, None], height, border)  # (D, kh, 1) each
    columns = _neighbours(centres(0, kw)[:, None, :], width, border)  # (D, 1, kw) each
    # All levels of an image end to end, a row of C values for each cell.
    cells = torch.cat([x.permute(0, 2, 3, 1).flatten(1, 2) for x in features], dim=1)  # (N, S, C)
    base = image[:, None, None] * cells.shape[1] + start
    cells = cells.flatten(0, 1)  # (N * S, C)
    samples = cells.new_zeros((), dtype=kind)
    for y, wy in rows:
        for x, wx in columns:
            index = (base + y * width + x).flatten()  # (D * kh * kw,)
            samples = samples + cells.index_select(0, index).to(kind) * (wy * wx).reshape(-1, 1)  # (D * kh * kw, C)
    return samples.to(features[0].dtype).reshape(boxes.shape[0], kh, kw, cells.shape[1]).permute(0, 3, 1, 2)


def _neighbours(p: torch.Tensor, size: torch.Tensor, border: str) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """The two cells next to coordinate ``p`` among ``size`` in a row and their weights; see csrc/bilinear.h."""
    inside = (p >= -1) & (p <= size) if border == "clamp" else (p > -1) & (p < size)
    p = torch.where(inside, p, 0)  # NaN goes here
    if border == "clamp":
        p = torch.minimum(p.clamp(min=0), (size - 1).to(p.dtype))
    low = p.detach().floor()
    i = low.long()
    high_weight = torch.where(i + 1 < size, p - low, 0)
    low_weight = 1 - high_weight if border == "clamp" else torch.where(i >= 0, 1 - (p - low), 0)
    return [
        (i.clamp(min=0), torch.where(inside, low_weight, 0)),
        (torch.minimum(i + 1, size - 1), torch.where(inside, high_weight, 0)),
    ]


def _check(features, boxes, image, level, strides, size, border) -> None:
    if not features:
        raise ValueError("features is empty; roi_sample takes one map per level")
    first = features[0]
    for i, x in enumerate(features):
        if x.dim() != 4 or x.shape[:2] != first.shape[:2] or 0 in x.shape[2:]:
            raise ValueError(
                f"features[{i}] is {tuple(x.shape)}; roi_sample takes (N, C, H, W) with H and W positive, N and C the "
                "same on every level"
            )
        if x.dtype not in FLOATS or x.dtype != first.dtype:
            raise TypeError(f"features[{i}] is {x.dtype}, features[0] {first.dtype}; roi_sample takes one float type")
    if boxes.dim() != 2 or boxes.shape[1] != 4:
        raise ValueError(f"boxes is {tuple(boxes.shape)}; roi_sample takes (D, 4)")
    if not boxes.is_floating_point():
        raise TypeError(f"boxes is {boxes.dtype}; roi_sample takes a float type")
    for name, index in (("image", image), ("level", level)):
        if index.shape != boxes.shape[:1]:
            raise ValueError(f"{name} is {tuple(index.shape)}; roi_sample takes ({len(boxes)},), one number a box")
        if index.dtype != torch.int64:
            raise TypeError(f"{name} is {index.dtype}; roi_sample takes int64")
    for name, t in (("boxes", boxes), ("image", image), ("level", level), *(("features", x) for x in features)):
        if t.device != first.device:
            raise ValueError(f"{name} lies on {t.device}, features[0] on {first.device}")
    if len(strides) != len(features) or not all(s > 0 for s in strides):
        raise ValueError(f"strides is {strides}; roi_sample takes a positive number for each of {len(features)} levels")
    if len(size) != 2 or min(size) < 1:
        raise ValueError(f"size is {size}; roi_sample takes (kh, kw), both positive")
    if border not in _BORDERS:
        raise ValueError(f"border is {border!r}; it can be clamp or zeros")


def _register() -> None:
    """Teach torch the native operators' shapes and gradients."""
    ops = torch.ops.adet_ext

    @torch.library.register_fake("adet_ext::roi_sample")
    def _(features, boxes, image, level, scales, kh, kw, border, channels_last):
        d, c = boxes.shape[0], features[0].shape[1]
        if channels_last:
            return features[0].new_empty(d, kh, kw, c).permute(0, 3, 1, 2)
        return features[0].new_empty(d, c, kh, kw)

    @torch.library.register_fake("adet_ext::roi_sample_backward_features")
    def _(grad, boxes, image, level, sizes, scales, border, channels_last, deterministic):
        n, c = sizes[0], grad.shape[1]
        pairs = zip(sizes[1::2], sizes[2::2])
        if channels_last:
            return [grad.new_empty(n, h, w, c).permute(0, 3, 1, 2) for h, w in pairs]
        return [grad.new_empty(n, c, h, w) for h, w in pairs]

    @torch.library.register_fake("adet_ext::roi_sample_backward_boxes")
    def _(grad, features, boxes, image, level, scales, border):
        return boxes.new_empty(boxes.shape)

    def setup(ctx, inputs, output):
        features, boxes, image, level, scales, _, _, border, channels_last = inputs
        ctx.sizes = [features[0].shape[0], *(n for x in features for n in x.shape[2:])]
        ctx.scales, ctx.border, ctx.channels_last = scales, border, channels_last
        # The features' own values matter to the gradient of the boxes alone.
        ctx.save_for_backward(boxes, image, level, *(features if ctx.needs_input_grad[1] else ()))

    def backward(ctx, grad):
        boxes, image, level, *features = ctx.saved_tensors
        to_features = to_boxes = None
        if any(ctx.needs_input_grad[0]):
            to_features = ops.roi_sample_backward_features(
                grad,
                boxes,
                image,
                level,
                ctx.sizes,
                ctx.scales,
                ctx.border,
                ctx.channels_last,
                torch.are_deterministic_algorithms_enabled(),
            )
        if ctx.needs_input_grad[1]:
            to_boxes = ops.roi_sample_backward_boxes(grad, features, boxes, image, level, ctx.scales, ctx.border)
        return to_features, to_boxes, None, None, None, None, None, None, None

    def no_second_time(ctx, *grads):
        raise RuntimeError("roi_sample has no gradients of its gradients")

    torch.library.register_autograd("adet_ext::roi_sample", backward, setup_context=setup)
    for name in ("roi_sample_backward_features", "roi_sample_backward_boxes"):
        torch.library.register_autograd(f"adet_ext::{name}", no_second_time)


if _NATIVE_DEVICES:
    _register()

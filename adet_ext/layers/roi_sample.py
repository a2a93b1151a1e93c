"""Sample maps bilinearly at the centers of evenly divided boxes (thesis 3.3.1, equations 3.2, 3.3 and 3.5).

H_l x W_l the map of level l, kh x kw points a box; other letters as in :mod:`adet_ext.layers`.

By equations 3.2 and 3.3, the points of a location (x, y) with distances (l, t, r, b) to the sides of its box are
x - l + (l + r)(2i + 1) / 2kw and y - t + (t + b)(2j + 1) / 2kh. They depend on the box alone. So the operator takes
boxes, and is RoIAlign with half-pixel correction and one sample a bin. Cell 0 of a map with stride s has its center
at s / 2, so a pixel coordinate p is p / s - 0.5 in cells.
"""

from collections.abc import Sequence

import torch

from .checks import (
    check_boxes,
    check_floating,
    check_index,
    check_like,
    check_number,
    check_option,
    check_range,
    check_sequence,
    check_shape,
    shape_text,
)
from .extension import native_operators, serves
from .floats import sum_dtype
from .roi_sample_reference import roi_sample_reference

__all__ = ["roi_sample", "roi_sample_reference"]

_BORDERS = {"clamp": 0, "zeros": 1}  # as in csrc/bilinear.h
_MAX_LEVELS, _MAX_POINTS, _INT32 = 16, 65536, 2**31 - 1  # as in csrc/roi_sample.h


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
    """Sample each box's level bilinearly at the centers of the kh x kw parts of the box.

    Features and boxes get gradients, but not a second time. Coordinates and sums are float32, or float64 for float64
    features. The gradient of the features is deterministic on the CPU, and on CUDA under
    ``torch.use_deterministic_algorithms``.

    Args:
        features: one (N, C, H_l, W_l) map per level, all of one type: float32, float64, float16 or bfloat16.
            Channels-last maps are read fastest.
        boxes: (D, 4) float, absolute (x0, y0, x1, y1) in pixels; may leave the image. Samples at points
            that are not finite are zero.
        image: (D,) int64, the image of each box, in [0, N).
        level: (D,) int64, the map of each box, an index into ``features``.
        strides: of the maps, in pixels.
        size: (kh, kw).
        border: "clamp", the border's values up to one cell outside the map and zeros further out, as RoIAlign;
            "zeros", zeros outside, faded in over one cell, as deformable convolution.

    Returns:
        (B, C, kh, kw) of the features' type; channels innermost in memory if all features are so, else contiguous.

    Raises:
        TypeError, ValueError: an argument is not as above; the message names it.
        RuntimeError, IndexError: an image or a level is out of range. On CUDA the host does not wait to check this,
            and the box's samples are NaN instead.
    """
    for name, value in (("features", features), ("strides", strides), ("size", size)):
        check_sequence(value, name)
    features, strides, size = list(features), list(strides), tuple(size)
    _check(features, boxes, image, level, strides, size, border)
    if not _fits(features, size):
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


def _check(features, boxes, image, level, strides, size, border) -> None:
    if not features:
        raise ValueError("features must have at least one level; got none")
    _check_maps(features)
    check_boxes(boxes, features[0], exact=False)
    check_index(image, "image", boxes)
    check_index(level, "level", boxes)
    if len(strides) != len(features):
        raise ValueError(f"strides must have {len(features)} numbers; got {len(strides)}")
    for stride in strides:
        check_number(stride, "strides")
        check_number(1 / stride, "1 / strides")
    if len(size) != 2:
        raise ValueError(f"size must be (kh, kw); got {size}")
    _check_points(*size)
    check_option(border, "border", tuple(_BORDERS))
    _check_images(features[0].shape[0], boxes)


def _check_maps(features: Sequence[torch.Tensor]) -> None:
    first = features[0]
    for i, x in enumerate(features):
        name = f"features[{i}]"
        check_floating(x, name)
        check_shape(x, name, (*first.shape[:2], "H", "W") if i else ("N", "C", "H", "W"))
        check_like(x, name, first)
        _check_map(name, *x.shape[2:], *(x.stride()[2:] if x.layout == torch.strided else (0, 0)))


def _check_map(name: str, height: int, width: int, stride_y: int, stride_x: int) -> None:
    check_range(height, f"{name} height", 1, _INT32)
    check_range(width, f"{name} width", 1, _INT32)
    if (height - 1) * stride_y + (width - 1) * stride_x > _INT32:
        raise ValueError(f"{name} must span less than 2^31 elements an image; got {height} x {width}")


def _check_points(kh: int, kw: int) -> None:
    check_range(kh, "kh of size", 1, _MAX_POINTS)
    check_range(kw, "kw of size", 1, _MAX_POINTS)
    check_range(kh * kw, "kh * kw of size", 1, _MAX_POINTS)


def _check_grad(grad: torch.Tensor) -> None:
    check_shape(grad, "grad", ("B", "C", "h", "w"))
    kh, kw = grad.shape[2:]
    if not 1 <= kh * kw <= _MAX_POINTS:
        raise ValueError(f"grad must have 1 to {_MAX_POINTS} points a box; got {shape_text(grad.shape)}")


def _check_images(images: int, boxes: torch.Tensor) -> None:
    if images == 0 and boxes.shape[0] > 0:
        raise ValueError(f"features must have images for {boxes.shape[0]} boxes; got 0")


def _fits(features: Sequence[torch.Tensor], size: tuple[int, int]) -> bool:
    """Whether the compiled operator supports these arguments."""
    if not serves("roi_sample", features[0]) or len(features) > _MAX_LEVELS:
        return False
    return features[0].device.type != "cuda" or size[0] * size[1] <= 1024


def _check_levels(levels: int, scales: Sequence[float]) -> None:
    check_range(levels, "the number of levels", 1, _MAX_LEVELS)
    if len(scales) != levels:
        raise ValueError(f"scales must have {levels} numbers; got {len(scales)}")
    for scale in scales:
        check_number(scale, "scales")


def _check_sizes(sizes: Sequence[int], scales: Sequence[float], c: int, channels_last: bool) -> list[tuple[int, int]]:
    """Check N and two numbers a level; return the height and width of each level."""
    if len(sizes) % 2 == 0:
        raise ValueError(f"sizes must be N and two numbers a level; got {len(sizes)} numbers")
    _check_levels(len(sizes) // 2, scales)
    check_range(sizes[0], "sizes[0]", 0, _INT32)
    pairs = list(zip(sizes[1::2], sizes[2::2]))
    cell = c if channels_last else 1
    for i, (h, w) in enumerate(pairs):
        _check_map(f"sizes: level {i}", h, w, w * cell, cell)
        if sizes[0] * c * h * w > 2**36:
            raise ValueError(f"sizes must be of less than 2^36 numbers a level; got {sizes[0] * c * h * w}")
    return pairs


def _check_call(maps, boxes, image, level, kh, kw, border) -> None:
    """Check what the kernels of all three operators check. ``maps``: the first features, or their gradient."""
    check_range(border, "border", 0, 1)
    check_floating(maps, "features")
    check_boxes(boxes, maps, exact=True)
    check_index(image, "image", boxes)
    check_index(level, "level", boxes)
    _check_points(kh, kw)


def _register_shapes() -> None:
    """Register the shapes of what the compiled operators return."""

    @torch.library.register_fake("adet_ext::roi_sample")
    def _(features, boxes, image, level, scales, kh, kw, border, channels_last):
        _check_levels(len(features), scales)
        _check_maps(features)
        _check_call(features[0], boxes, image, level, kh, kw, border)
        _check_images(features[0].shape[0], boxes)
        d, c = boxes.shape[0], features[0].shape[1]
        if channels_last:
            return features[0].new_empty(d, kh, kw, c).permute(0, 3, 1, 2)
        return features[0].new_empty(d, c, kh, kw)

    @torch.library.register_fake("adet_ext::roi_sample_backward_features")
    def _(grad, boxes, image, level, sizes, scales, border, channels_last, deterministic):
        check_floating(grad, "grad")
        _check_grad(grad)
        _check_call(grad, boxes, image, level, *grad.shape[2:], border)
        check_shape(grad, "grad", (boxes.shape[0], "C", "h", "w"))
        c = grad.shape[1]
        pairs, n = _check_sizes(sizes, scales, c, channels_last), sizes[0]
        _check_images(n, boxes)
        if channels_last:
            return [grad.new_empty(n, h, w, c).permute(0, 3, 1, 2) for h, w in pairs]
        return [grad.new_empty(n, c, h, w) for h, w in pairs]

    @torch.library.register_fake("adet_ext::roi_sample_backward_boxes")
    def _(grad, features, boxes, image, level, scales, border):
        _check_levels(len(features), scales)
        _check_maps(features)
        _check_grad(grad)
        check_like(grad, "grad", features[0])
        _check_call(grad, boxes, image, level, *grad.shape[2:], border)
        check_shape(grad, "grad", (boxes.shape[0], features[0].shape[1], "h", "w"))
        _check_images(features[0].shape[0], boxes)
        return boxes.new_empty(boxes.shape)


def _setup(ctx, inputs, output) -> None:
    features, boxes, image, level, scales, _, _, border, channels_last = inputs
    ctx.sizes = [features[0].shape[0], *(n for x in features for n in x.shape[2:])]
    ctx.scales, ctx.border, ctx.channels_last = scales, border, channels_last
    # Only the gradient of the boxes depends on the values of the features.
    ctx.save_for_backward(boxes, image, level, *(features if ctx.needs_input_grad[1] else ()))


def _backward(ctx, grad):
    ops = torch.ops.adet_ext
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
    return to_features, to_boxes, *[None] * 7


def _no_second_time(ctx, *grads):
    raise RuntimeError("roi_sample has no second derivatives")


if "roi_sample" in native_operators():
    _register_shapes()
    torch.library.register_autograd("adet_ext::roi_sample", _backward, setup_context=_setup)
    for name in ("roi_sample_backward_features", "roi_sample_backward_boxes"):
        torch.library.register_autograd(f"adet_ext::{name}", _no_second_time)

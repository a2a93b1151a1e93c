"""RoIPred: a predictor that reads the features at the centers of an evenly divided box (thesis 3.3.1).

N images, C channels, H_l x W_l the map of level l, D boxes, kh x kw points a box, O outputs.

It is a deformable convolution with offsets from boxes. Evaluation at only the locations that are needed (positives in
training, detections in inference) gives the numbers of the dense form at a small fraction of its cost.
"""

from collections.abc import Sequence
from contextlib import nullcontext

import torch
from torch.nn import functional as F

from .checks import (
    check_device,
    check_floating,
    check_number,
    check_range,
    check_sequence,
    check_shape,
    check_type,
    shape_text,
)
from .floats import autocasts
from .roi_sample import roi_sample

__all__ = ["roi_pred", "roi_pred_dense", "location_boxes"]

# Bytes of the samples in one chunk of the dense form, enough for matrix products at full speed.
_CHUNK_BYTES = 1 << 26


def roi_pred(
    features: Sequence[torch.Tensor],
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    boxes: torch.Tensor,
    image: torch.Tensor,
    level: torch.Tensor,
    *,
    strides: Sequence[float],
    border: str = "clamp",
) -> torch.Tensor:
    """Evaluate RoIPred at a list of boxes (equations 3.1 and 3.5): samples, then one matrix product.

    It is fastest if features and weight are both channels-last, because nothing is then copied.

    Args:
        weight: (O, C, kh, kw).
        bias: (O,) or None.
        features, boxes, image, level, strides, border: see :func:`roi_sample`.

    Returns:
        (D, O).

    Raises:
        TypeError, ValueError: an argument is not as above; the message names it.
    """
    check_sequence(features, "features")
    if not features:
        raise ValueError("features must have at least one level; got none")
    check_floating(features[0], "features[0]")
    check_shape(features[0], "features[0]", ("N", "C", "H", "W"))
    _check_weight(features[0], weight, bias)
    size = (weight.shape[2], weight.shape[3])
    samples = roi_sample(features, boxes, image, level, strides=strides, size=size, border=border)
    if weight.stride(1) == 1:
        # Both get the weight's order in memory, in which the weight is a view. The samples usually have it too. If not,
        # they are copied, but they are small compared with the weight.
        samples, weight = samples.permute(0, 2, 3, 1), weight.permute(0, 2, 3, 1)
    return F.linear(samples.flatten(1), weight.flatten(1), bias)


def location_boxes(ltrb: torch.Tensor, stride: float) -> torch.Tensor:
    """Return the boxes (N, H, W, 4) of all locations of a map, from distances (N, 4, H, W), both in pixels.

    Location (x, y) is at ((x + 0.5) stride, (y + 0.5) stride).
    """
    h, w = ltrb.shape[-2:]
    y = (torch.arange(h, device=ltrb.device, dtype=ltrb.dtype) + 0.5) * stride
    x = (torch.arange(w, device=ltrb.device, dtype=ltrb.dtype) + 0.5) * stride
    left, top, right, bottom = ltrb.unbind(1)  # (N, H, W) each
    return torch.stack([x - left, y[:, None] - top, x + right, y[:, None] + bottom], dim=-1)  # (N, H, W, 4)


def roi_pred_dense(
    feature: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    ltrb: torch.Tensor,
    *,
    stride: float,
    feature_stride: float,
    border: str = "clamp",
    chunk: int | None = None,
) -> torch.Tensor:
    """Evaluate RoIPred at every location (equations 3.1 and 3.5), in chunks.

    Offsets are not stored, and samples only of one chunk; the backward pass samples again. With O feature channels this
    is also RoIConv (Chen et al.).

    Args:
        feature: (N, C, H', W').
        weight: (O, C, kh, kw).
        bias: (O,) or None.
        ltrb: (N, 4, H, W) distances from each location to the sides of its box, in pixels.
        stride: of the locations, in pixels.
        feature_stride: of the feature. It is lower than ``stride`` for lower-level sampling (equation 3.5).
        border: see :func:`roi_sample`.
        chunk: number of locations that are sampled at once; None: as many as fill 64 MiB.

    Returns:
        (N, O, H, W), channels-last.

    Raises:
        TypeError, ValueError: an argument is not as above; the message names it.
    """
    check_floating(feature, "feature")
    check_shape(feature, "feature", ("N", "C", "H'", "W'"))
    check_floating(ltrb, "ltrb")
    check_shape(ltrb, "ltrb", (feature.shape[0], 4, "H", "W"))
    check_device(ltrb, "ltrb", feature)
    check_number(stride, "stride")
    check_number(feature_stride, "feature_stride")
    if chunk is not None:
        check_range(chunk, "chunk", 1, 2**63 - 1)
    if autocasts(feature):
        # Cast here as autocast would in each chunk, because the backward pass runs outside of it.
        low = torch.get_autocast_dtype(feature.device.type)
        feature, weight, bias = feature.to(low), weight.to(low), bias if bias is None else bias.to(low)
    _check_weight(feature, weight, bias)
    n, _, h, w = ltrb.shape
    boxes = location_boxes(ltrb.to(torch.promote_types(ltrb.dtype, torch.float32)), stride).flatten(0, 2)  # (NHW, 4)
    step = chunk or max(1, _CHUNK_BYTES // max(weight.shape[1:].numel() * feature.element_size(), 1))
    inputs = (feature, weight, bias, boxes)
    options = (h * w, float(feature_stride), border, step)
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in inputs):
        out = _Chunked.apply(*inputs, *options)  # (NHW, O)
    else:
        out = _by_chunks(*inputs, *options)
    return out.unflatten(0, (n, h, w)).permute(0, 3, 1, 2)  # (N, O, H, W)


def _part(feature, weight, bias, boxes, begin: int, end: int, area: int, stride: float, border: str) -> torch.Tensor:
    """Evaluate the locations from begin to end; an image has ``area`` of them: (end - begin, O)."""
    image = torch.arange(begin, end, device=boxes.device) // area
    args = ([feature], weight, bias, boxes[begin:end], image, torch.zeros_like(image))
    off = nullcontext() if feature.device.type == "meta" else torch.autocast(feature.device.type, enabled=False)
    with off:
        return roi_pred(*args, strides=[stride], border=border)


def _by_chunks(feature, weight, bias, boxes, area: int, stride: float, border: str, step: int) -> torch.Tensor:
    out = feature.new_empty(boxes.shape[0], weight.shape[0])
    for begin in range(0, boxes.shape[0], step):
        end = min(begin + step, boxes.shape[0])
        out[begin:end] = _part(feature, weight, bias, boxes, begin, end, area, stride, border)
    return out


class _Chunked(torch.autograd.Function):
    """Evaluate the chunks one after another. The backward pass computes them again, so nothing is kept for it."""

    @staticmethod
    def forward(ctx, feature, weight, bias, boxes, area, stride, border, step):
        ctx.save_for_backward(feature, weight, bias, boxes)
        ctx.options = area, stride, border, step
        return _by_chunks(feature, weight, bias, boxes, area, stride, border, step)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        area, stride, border, step = ctx.options
        inputs = [None if t is None else t.detach() for t in ctx.saved_tensors]
        wanted = [i for i in range(4) if ctx.needs_input_grad[i]]
        for i in wanted:
            inputs[i].requires_grad_()
        sums = {i: torch.zeros_like(inputs[i]) for i in wanted}
        for begin in range(0, grad.shape[0], step):
            end = min(begin + step, grad.shape[0])
            with torch.enable_grad():
                out = _part(*inputs, begin, end, area, stride, border)
            for i, g in zip(wanted, torch.autograd.grad(out, [inputs[i] for i in wanted], grad[begin:end])):
                sums[i] += g
        return *(sums.get(i) for i in range(4)), None, None, None, None


def _check_weight(feature: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
    check_shape(weight, "weight", ("O", feature.shape[1], "kh", "kw"))
    if bias is not None:
        check_shape(bias, "bias", (weight.shape[0],))
    for name, t in (("weight", weight), ("bias", bias)):
        if t is None:
            continue
        check_device(t, name, feature)
        if not autocasts(feature):
            check_type(t, name, feature.dtype)
        check_floating(t, name)
    if weight.shape[2] * weight.shape[3] == 0:
        raise ValueError(f"weight must have kh and kw above 0; got {shape_text(weight.shape)}")

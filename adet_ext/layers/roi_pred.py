"""RoIPred: a predictor that reads the features at the centres of an evenly divided box (thesis 3.3.1).

N images, C channels, H_l x W_l the map of level l, D boxes, kh x kw points a box, O outputs.

It is a deformable convolution whose offsets come from boxes. Evaluated at the few locations that are needed (positives
in training, detections in inference) it gives the numbers of the dense form at a small fraction of its cost.
"""

from collections.abc import Sequence

import torch
from torch.nn import functional as F

from .roi_sample import roi_sample

__all__ = ["roi_sample", "roi_pred", "roi_pred_dense", "location_boxes"]

# Samples of one chunk of the dense form, in bytes: large enough for matrix products at full speed.
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
    """RoIPred at a list of boxes (equations 3.1 and 3.5): samples, then one matrix product.

    Fastest with features and weight both channels-last: samples and weight are then multiplied as they lie in memory.

    Args:
        weight: (O, C, kh, kw).
        bias: (O,) or None.
        features, boxes, image, level, strides, border: see :func:`roi_sample`.

    Returns:
        (D, O).

    Raises:
        TypeError, ValueError: an argument is not as above; the message names it.
    """
    _check_weight(features[0], weight, bias)
    size = (weight.shape[2], weight.shape[3])
    samples = roi_sample(features, boxes, image, level, strides=strides, size=size, border=border)
    if weight.stride(1) == 1:
        # Both are brought into the weight's order, which is a view of the weight. The samples are usually in it too;
        # if not they are copied, and are a small matrix next to the weight.
        samples, weight = samples.permute(0, 2, 3, 1), weight.permute(0, 2, 3, 1)
    return F.linear(samples.flatten(1), weight.flatten(1), bias)


def location_boxes(ltrb: torch.Tensor, stride: float) -> torch.Tensor:
    """The boxes (N, H, W, 4) in pixels of all locations of a map, from their distances (N, 4, H, W) in pixels.

    Location (x, y) lies at ((x + 0.5) stride, (y + 0.5) stride).
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
    """RoIPred at every location (equations 3.1 and 3.5), by chunks: neither offsets nor all samples are ever stored.

    The backward pass samples each chunk anew. With O feature channels this is RoIConv (Chen et al.) as well.

    Args:
        feature: (N, C, H', W').
        weight: (O, C, kh, kw).
        bias: (O,) or None.
        ltrb: (N, 4, H, W) distances from each location to the sides of its box, in pixels.
        stride: of the locations, in pixels.
        feature_stride: of the feature; lower than ``stride`` for lower-level sampling (equation 3.5).
        border: see :func:`roi_sample`.
        chunk: locations sampled at a time; None for as many as fill 64 MiB.

    Returns:
        (N, O, H, W), channels-last.

    Raises:
        TypeError, ValueError: an argument is not as above; the message names it.
    """
    if ltrb.dim() != 4 or ltrb.shape[1] != 4:
        raise ValueError(f"ltrb is {tuple(ltrb.shape)}; roi_pred_dense takes (N, 4, H, W)")
    if feature.dim() != 4 or len(feature) != len(ltrb):
        raise ValueError(f"feature is {tuple(feature.shape)} for {len(ltrb)} images; roi_pred_dense takes (N, C, H', W')")
    if chunk is not None and chunk < 1:
        raise ValueError(f"chunk is {chunk}; roi_pred_dense takes a positive number of locations")
    kind = feature.device.type
    if torch.is_autocast_enabled(kind):
        # What autocast would do chunk by chunk; the backward pass runs outside of it.
        low = torch.get_autocast_dtype(kind)
        feature, weight, bias = feature.to(low), weight.to(low), bias if bias is None else bias.to(low)
    _check_weight(feature, weight, bias)
    n, _, h, w = ltrb.shape
    boxes = location_boxes(ltrb.to(torch.promote_types(ltrb.dtype, torch.float32)), stride).flatten(0, 2)  # (NHW, 4)
    step = chunk or max(1, _CHUNK_BYTES // (weight[0].numel() * feature.element_size()))
    inputs = (feature, weight, bias, boxes)
    options = (h * w, float(feature_stride), border, step)
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in inputs):
        out = _Chunked.apply(*inputs, *options)  # (NHW, O)
    else:
        out = _by_chunks(*inputs, *options)
    return out.unflatten(0, (n, h, w)).permute(0, 3, 1, 2)  # (N, O, H, W)


def _part(feature, weight, bias, boxes, begin: int, end: int, area: int, stride: float, border: str) -> torch.Tensor:
    """Locations from begin to end, of ``area`` in each image: (end - begin, O)."""
    image = torch.arange(begin, end, device=boxes.device) // area
    args = ([feature], weight, bias, boxes[begin:end], image, torch.zeros_like(image))
    with torch.autocast(feature.device.type, enabled=False):
        return roi_pred(*args, strides=[stride], border=border)


def _by_chunks(feature, weight, bias, boxes, area: int, stride: float, border: str, step: int) -> torch.Tensor:
    out = feature.new_empty(len(boxes), len(weight))
    for begin in range(0, len(boxes), step):
        end = min(begin + step, len(boxes))
        out[begin:end] = _part(feature, weight, bias, boxes, begin, end, area, stride, border)
    return out


class _Chunked(torch.autograd.Function):
    """The chunks in a row, none of which keeps anything for the backward pass: it computes them again."""

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
        for begin in range(0, len(grad), step):
            end = min(begin + step, len(grad))
            with torch.enable_grad():
                out = _part(*inputs, begin, end, area, stride, border)
            for i, g in zip(wanted, torch.autograd.grad(out, [inputs[i] for i in wanted], grad[begin:end])):
                sums[i] += g
        return *(sums.get(i) for i in range(4)), None, None, None, None


def _check_weight(feature: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
    if weight.dim() != 4 or weight.shape[1] != feature.shape[1]:
        raise ValueError(f"weight is {tuple(weight.shape)}; RoIPred takes (O, {feature.shape[1]}, kh, kw)")
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"bias is {tuple(bias.shape)}; RoIPred takes ({len(weight)},)")
    for name, t in (("weight", weight), ("bias", bias)):
        if t is None:
            continue
        if t.device != feature.device:
            raise ValueError(f"{name} lies on {t.device}, the features on {feature.device}")
        if t.dtype != feature.dtype and not torch.is_autocast_enabled(feature.device.type):
            raise TypeError(f"{name} is {t.dtype}, the features are {feature.dtype}")

"""RoIPred's cases: pyramids P3 to P7 of 256 channels, 5 x 5 points, masks of 28 x 28."""

from collections.abc import Sequence

import torch
from torchvision.ops import deform_conv2d, roi_align

from ...layers.roi_pred import location_boxes, roi_pred, roi_pred_dense, roi_sample
from .case import Case, Contest

__all__ = ["cases", "box_offsets"]

_STRIDES = (8, 16, 32, 64, 128)
_CHANNELS, _KERNEL, _OUTPUTS, _BOXES = 256, 5, 28 * 28, 100
_SIZES = ((800, 1088), (800, 1333))
_ROI_ALIGN = "torchvision roi_align, level by level"
_DEFORM = "torchvision deform_conv2d, offsets materialised"


def cases() -> list[Case]:
    found = []
    for size in _SIZES:
        shape = f"100 boxes, 5x5, 256 ch, P3-P7 of {size[0]}x{size[1]}"
        sampling = dict(shape=shape, baseline=_ROI_ALIGN, dtypes=(torch.float32, torch.float16))
        found += [
            Case("roi_sample", make=_sampling(size, channels_last=True), target={"cpu": 1.5}, **sampling),
            Case("roi_sample, planes", make=_sampling(size, channels_last=False), target={"cpu": 1.5}, **sampling),
            Case("roi_sample backward", make=_sampling(size, channels_last=True, backward=True), target={}, **sampling),
        ]
        for boxes in (10, 100, 1000):
            found.append(
                Case(
                    "roi_pred",
                    f"{boxes} {shape.removeprefix('100 ')}, 784 outputs",
                    f"{_DEFORM}, at every location",
                    _predictor(size, boxes),
                    target={"cpu": 100.0} if boxes == 100 else {},
                )
            )
    # The same points on both sides: every location of P5.
    for backward in (False, True):
        found.append(
            Case(
                "roi_pred_dense backward" if backward else "roi_pred_dense",
                "P5 of 800x1088, 5x5, 256 ch, 784 outputs",
                _DEFORM,
                _same_points(_SIZES[0], backward),
                target={"cuda": 5.0} if backward else {},
            )
        )
    return found


def _pyramid(size: tuple[int, int], device, dtype, *, channels_last: bool) -> list[torch.Tensor]:
    layout = torch.channels_last if channels_last else torch.contiguous_format
    shapes = [(1, _CHANNELS, -(-size[0] // s), -(-size[1] // s)) for s in _STRIDES]
    return [torch.randn(shape, device=device, dtype=dtype).contiguous(memory_format=layout) for shape in shapes]


def _boxes(size: tuple[int, int], device, count: int = _BOXES) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Boxes of 20 to 800 pixels, each on the level of its longer side, as FCOS' sizes of interest have it."""
    extent = torch.exp(torch.rand(count, 2) * 3.7 + 3)
    limits = torch.tensor([size[1], size[0]] * 2, dtype=torch.float32)
    centre = torch.rand(count, 2) * limits[:2]
    boxes = torch.cat([centre - extent / 2, centre + extent / 2], dim=1).clamp(min=0).minimum(limits)
    longer = (boxes[:, 2:] - boxes[:, :2]).amax(1)
    level = torch.bucketize(longer, torch.tensor([64.0, 128, 256, 512]))
    return boxes.to(device), torch.zeros(count, dtype=torch.int64, device=device), level.to(device)


def _align(features: Sequence[torch.Tensor], boxes, image, level) -> torch.Tensor:
    """The composition: as Detectron2's pooler, one RoIAlign a level, put in place."""
    rois = torch.cat([image[:, None].to(boxes.dtype), boxes], dim=1).to(features[0].dtype)
    out = features[0].new_empty(len(boxes), _CHANNELS, _KERNEL, _KERNEL)
    for i, (x, stride) in enumerate(zip(features, _STRIDES)):
        index = (level == i).nonzero()[:, 0]
        out = out.index_put((index,), roi_align(x, rois[index], (_KERNEL, _KERNEL), 1 / stride, 1, True))
    return out


def _sampling(size: tuple[int, int], *, channels_last: bool, backward: bool = False):
    def make(device: torch.device, dtype: torch.dtype) -> Contest:
        torch.manual_seed(0)
        ours = _pyramid(size, device, dtype, channels_last=channels_last)
        # torchvision reads planes; it is spared the copy.
        theirs = [x.contiguous().clone() for x in ours]
        where = _boxes(size, device)
        args = {"strides": _STRIDES, "size": (_KERNEL, _KERNEL)}
        out = _BOXES * _CHANNELS * _KERNEL**2 * ours[0].element_size()
        total = sum(x.numel() for x in ours) * ours[0].element_size()
        if not backward:
            return Contest(
                lambda: roi_sample(ours, *where, **args), lambda: _align(theirs, *where), min(4 * out, total) + out
            )
        for x in (*ours, *theirs):
            x.requires_grad_()
        grad = torch.randn(_BOXES, _CHANNELS, _KERNEL, _KERNEL, device=device, dtype=dtype)
        return Contest(
            lambda: torch.autograd.grad(roi_sample(ours, *where, **args), ours, grad),
            lambda: torch.autograd.grad(_align(theirs, *where), theirs, grad),
            min(4 * out, total) + 2 * out + total,
        )

    return make


def box_offsets(ltrb: torch.Tensor) -> torch.Tensor:
    """Equations 3.2 and 3.3 as a deformable convolution with padding 2 takes them; ltrb in cells. (N, 50, H, W)."""
    left, top, right, bottom = ltrb.unbind(1)  # (N, H, W) each
    n, h, w = left.shape
    part = (2 * torch.arange(_KERNEL, device=ltrb.device).to(ltrb)[:, None, None] + 1) / (2 * _KERNEL)
    tap = torch.arange(_KERNEL, device=ltrb.device).to(ltrb)[:, None, None] - _KERNEL // 2
    dx = (left + right)[:, None] * part - left[:, None] - tap  # (N, kw, H, W)
    dy = (top + bottom)[:, None] * part - top[:, None] - tap  # (N, kh, H, W)
    grid = (n, _KERNEL, _KERNEL, h, w)
    return torch.stack([dy[:, :, None].expand(grid), dx[:, None].expand(grid)], dim=3).flatten(1, 3)


def _weights(device, dtype) -> tuple[torch.Tensor, torch.Tensor]:
    weight = torch.randn(_OUTPUTS, _CHANNELS, _KERNEL, _KERNEL, device=device, dtype=dtype) * 0.01
    return weight.contiguous(memory_format=torch.channels_last), torch.zeros(_OUTPUTS, device=device, dtype=dtype)


def _predictor(size: tuple[int, int], boxes: int):
    def make(device: torch.device, dtype: torch.dtype) -> Contest:
        torch.manual_seed(0)
        ours = _pyramid(size, device, dtype, channels_last=True)
        theirs = [x.contiguous() for x in ours]
        where = _boxes(size, device, boxes)
        weight, bias = _weights(device, dtype)
        dense_weight = weight.contiguous()
        distances = [torch.rand(1, 4, *x.shape[2:], device=device, dtype=dtype) * 8 for x in ours]
        touched = min(4 * boxes * _CHANNELS * _KERNEL**2, sum(x.numel() for x in ours))
        return Contest(
            lambda: roi_pred(ours, weight, bias, *where, strides=_STRIDES),
            lambda: tuple(
                deform_conv2d(x, box_offsets(d), dense_weight, bias, padding=_KERNEL // 2)
                for x, d in zip(theirs, distances)
            ),
            (touched + weight.numel() + boxes * _OUTPUTS) * weight.element_size(),
        )

    return make


def _same_points(size: tuple[int, int], backward: bool):
    def make(device: torch.device, dtype: torch.dtype) -> Contest:
        torch.manual_seed(0)
        stride = _STRIDES[2]
        ours = _pyramid(size, device, dtype, channels_last=True)[2]
        theirs = ours.contiguous()
        weight, bias = _weights(device, dtype)
        dense_weight = weight.contiguous()
        distances = torch.rand(1, 4, *ours.shape[2:], device=device, dtype=dtype) * 8
        boxes = location_boxes(distances * stride, stride).flatten(0, 2)
        out = boxes.shape[0] * _OUTPUTS
        traffic = (ours.numel() + distances.numel() + weight.numel() + out) * ours.element_size()

        def dense() -> torch.Tensor:
            args = {"stride": stride, "feature_stride": stride, "border": "zeros"}
            return roi_pred_dense(ours, weight, bias, distances * stride, **args)

        def deform() -> torch.Tensor:
            return deform_conv2d(theirs, box_offsets(distances), dense_weight, bias, padding=_KERNEL // 2)

        if not backward:
            return Contest(dense, deform, traffic)
        for t in (ours, theirs, weight, dense_weight):
            t.requires_grad_()
        grad = torch.randn(1, _OUTPUTS, *ours.shape[2:], device=device, dtype=dtype)
        return Contest(
            lambda: torch.autograd.grad(dense(), [ours, weight], grad),
            lambda: torch.autograd.grad(deform(), [theirs, dense_weight], grad),
            traffic + (ours.numel() + weight.numel() + out) * ours.element_size(),
        )

    return make

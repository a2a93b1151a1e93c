"""Class-wise non-maximum suppression of fixed size: a mask over the candidates instead of indices.

K candidates an image, best first; other letters as in :mod:`adet_ext.layers`.

The usual operator returns as many indices as boxes are kept, so the host waits for the device. A mask has the shape of
the candidates, so whole models can be captured in a CUDA graph or exported.
"""

import torch
import torchvision

from .checks import check_device, check_floating, check_shape, check_type
from .extension import native_operators, serves

__all__ = ["nms_mask", "nms_mask_reference"]

# Each round decides one link of a chain of boxes that suppress one another in turn. Longer chains do not occur among
# the few thousand candidates that reach NMS.
_ROUNDS = 32


def nms_mask(boxes: torch.Tensor, classes: torch.Tensor, valid: torch.Tensor, threshold: float) -> torch.Tensor:
    """Suppress greedily within each class and image. On CUDA the host does not wait for the device.

    Args:
        boxes: (N, K, 4) float, absolute (x0, y0, x1, y1), best first.
        classes: (N, K) int64.
        valid: (N, K) bool. Candidates that are not valid are dropped and suppress nothing.
        threshold: a box is dropped if its IoU with a better, kept box of its class exceeds this.

    Returns:
        (N, K) bool, true for the boxes that are kept.

    Raises:
        TypeError, ValueError: an argument is not as above; the message names it.
    """
    check_floating(boxes, "boxes")
    _check(boxes, classes, valid, threshold)
    if _fits(boxes):
        return torch.ops.adet_ext.nms_mask(boxes.detach().float(), classes, valid, threshold)
    return nms_mask_reference(boxes, classes, valid, threshold)


def _check(boxes: torch.Tensor, classes: torch.Tensor, valid: torch.Tensor, threshold: float) -> None:
    check_shape(boxes, "boxes", ("N", "K", 4))
    for tensor, name, dtype in ((classes, "classes", torch.int64), (valid, "valid", torch.bool)):
        check_shape(tensor, name, tuple(boxes.shape[:2]))
        check_type(tensor, name, dtype)
        check_device(tensor, name, boxes)
    if isinstance(threshold, bool) or not isinstance(threshold, (int, float, torch.SymFloat)):
        raise TypeError(f"threshold must be a number; got {threshold!r}")
    if threshold != threshold:
        raise ValueError("threshold must be a number; got nan")


def _fits(boxes: torch.Tensor) -> bool:
    """Whether the compiled operator supports this many boxes."""
    if not serves("nms_mask", boxes):
        return False
    return boxes.device.type != "cuda" or (boxes.shape[1] <= 4096 * 64 and boxes.shape[0] <= 65535)


@torch.library.custom_op("adet_ext::nms_mask_reference", mutates_args=())
def nms_mask_reference(
    boxes: torch.Tensor, classes: torch.Tensor, valid: torch.Tensor, threshold: float
) -> torch.Tensor:
    """Compute :func:`nms_mask` in plain PyTorch. On CUDA, exact for chains of up to 32 boxes (``_ROUNDS``)."""
    if boxes.device.type == "cpu":
        kept = [_one_image(*args, threshold) for args in zip(boxes, classes, valid)]
        return torch.stack(kept) if kept else torch.zeros_like(valid)
    return _all_at_once(boxes, classes, valid, threshold)


@nms_mask_reference.register_fake
def _(boxes, classes, valid, threshold):
    return boxes.new_empty(boxes.shape[:2], dtype=torch.bool)


if "nms_mask" in native_operators():

    @torch.library.register_fake("adet_ext::nms_mask")
    def _(boxes, classes, valid, threshold):
        check_type(boxes, "boxes", torch.float32)
        _check(boxes, classes, valid, threshold)
        return boxes.new_empty(boxes.shape[:2], dtype=torch.bool)


def _one_image(boxes: torch.Tensor, classes: torch.Tensor, valid: torch.Tensor, threshold: float) -> torch.Tensor:
    keep = torch.zeros_like(valid)
    # Class by class. batched_nms adds an offset for each class, which rounding makes equal for large class ids.
    for label in classes[valid].unique():
        index = (valid & (classes == label)).nonzero()[:, 0]
        rank = -torch.arange(index.shape[0], dtype=torch.float32)
        keep[index[torchvision.ops.nms(boxes[index].float(), rank, threshold)]] = True
    return keep


def _all_at_once(boxes: torch.Tensor, classes: torch.Tensor, valid: torch.Tensor, threshold: float) -> torch.Tensor:
    """Suppress by iterating "kept unless a better, kept box suppresses it" to its fixed point, without host sync."""
    boxes = boxes.float()
    lower = torch.maximum(boxes[:, :, None, :2], boxes[:, None, :, :2])
    upper = torch.minimum(boxes[:, :, None, 2:], boxes[:, None, :, 2:])
    overlap = (upper - lower).clamp(min=0).prod(-1)  # (N, K, K)
    area = (boxes[..., 2:] - boxes[..., :2]).prod(-1)
    union = area[:, :, None] + area[:, None, :] - overlap
    suppresses = (overlap > threshold * union) & (classes[:, :, None] == classes[:, None, :])
    suppresses = (suppresses & valid[:, :, None]).triu(diagonal=1).to(boxes.dtype)  # row suppresses column
    keep = valid
    for _ in range(_ROUNDS):
        suppressed = torch.bmm(keep[:, None].to(boxes.dtype), suppresses)[:, 0] > 0
        keep = valid & ~suppressed
    return keep

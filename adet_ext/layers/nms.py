"""Class-wise non-maximum suppression of fixed size: a mask over the candidates instead of a list of survivors.

N images, K candidates an image, best first.

The usual operator returns as many indices as boxes survive, which makes the host wait for the device. A mask of
the candidates' own shape does not, so whole models can be captured in a CUDA graph or exported.
"""

import torch
import torchvision

from .extension import kernel_devices

__all__ = ["nms_mask"]

# Chains of boxes that suppress one another in turn are settled one link a round; longer ones than this do not occur
# among the at most a few thousand candidates that reach NMS.
_ROUNDS = 32


def nms_mask(boxes: torch.Tensor, classes: torch.Tensor, valid: torch.Tensor, threshold: float) -> torch.Tensor:
    """Greedy NMS within each class and image. On CUDA the host does not wait for the device.

    Args:
        boxes: (N, K, 4) float, absolute (x0, y0, x1, y1), best first.
        classes: (N, K) int64.
        valid: (N, K) bool; candidates that are not valid neither survive nor suppress.
        threshold: a box is dropped if its IoU with a better one of its class that stays exceeds this.

    Returns:
        (N, K) bool, true for the boxes that stay.

    Raises:
        RuntimeError: an argument is not as above; the message names it.
    """
    if boxes.device.type in _NATIVE_DEVICES:
        return torch.ops.adet_ext.nms_keep(boxes.detach().float(), classes, valid, threshold)
    return nms_mask_reference(boxes, classes, valid, threshold)


@torch.library.custom_op("adet_ext::nms_mask", mutates_args=())
def nms_mask_reference(
    boxes: torch.Tensor, classes: torch.Tensor, valid: torch.Tensor, threshold: float
) -> torch.Tensor:
    """:func:`nms_mask` without the compiled operators. On CUDA, exact for chains of up to 32 boxes (``_ROUNDS``)."""
    if boxes.device.type == "cpu":
        kept = [_one_image(*args, threshold) for args in zip(boxes, classes, valid)]
        return torch.stack(kept) if kept else torch.zeros_like(valid)
    return _all_at_once(boxes, classes, valid, threshold)


@nms_mask_reference.register_fake
def _(boxes, classes, valid, threshold):
    return torch.empty_like(valid)


_NATIVE_DEVICES = kernel_devices("nms_keep")

if _NATIVE_DEVICES:

    @torch.library.register_fake("adet_ext::nms_keep")
    def _(boxes, classes, valid, threshold):
        return valid.new_empty(valid.shape)


def _one_image(boxes: torch.Tensor, classes: torch.Tensor, valid: torch.Tensor, threshold: float) -> torch.Tensor:
    index = valid.nonzero()[:, 0]
    boxes, classes = boxes[index].float(), classes[index]
    if len(index):
        # Each class is moved to a place of its own, so that boxes of two classes never meet.
        offset = (boxes.max() - boxes.min() + 1) * classes.to(boxes.dtype)
        boxes = boxes + offset[:, None]
    rank = -torch.arange(len(index), dtype=torch.float32)
    keep = torch.zeros_like(valid)
    keep[index[torchvision.ops.nms(boxes, rank, threshold)]] = True
    return keep


def _all_at_once(boxes: torch.Tensor, classes: torch.Tensor, valid: torch.Tensor, threshold: float) -> torch.Tensor:
    """Greedy NMS as the fixed point of "stays unless a better one that stays suppresses it"; no host sync."""
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

"""Cases of the cross-entropy of resized logits: of CamVid at half size, COCO panoptic's stuff, CityScapes."""

import torch

from ...layers.resized_cross_entropy import resized_cross_entropy, resized_cross_entropy_reference
from .case import Case, Contest

__all__ = ["cases"]

# Images, classes, size of the logits, how many times as large the labels are.
_MAPS = ((8, 11, 60, 60, 4), (2, 54, 200, 272, 4), (1, 19, 128, 256, 8))


def cases() -> list[Case]:
    """Against F.interpolate and F.cross_entropy, forward, and forward with backward."""
    return [
        Case(
            "resized_cross_entropy" + (" backward" if backward else ""),
            f"{images}x{classes}x{height}x{width}, labels {times} times as large",
            "F.interpolate, F.cross_entropy" + (", backward" if backward else ""),
            _make((images, classes, height, width), times, backward),
            {},
        )
        for images, classes, height, width, times in _MAPS
        for backward in (False, True)
    ]


def _make(shape: tuple[int, ...], times: int, backward: bool):
    def make(device: torch.device, dtype: torch.dtype) -> Contest:
        generator = torch.Generator().manual_seed(0)
        logits = torch.randn(shape, generator=generator).to(device, dtype).requires_grad_(backward)
        size = (shape[0], shape[2] * times, shape[3] * times)
        labels = torch.randint(0, shape[1], size, generator=generator).to(device)
        moved = (1 + backward) * logits.numel() * logits.element_size() + labels.numel() * labels.element_size()

        def run(loss):
            found = loss(logits, labels)
            return torch.autograd.grad(found, logits) if backward else found

        return Contest(lambda: run(resized_cross_entropy), lambda: run(resized_cross_entropy_reference), moved)

    return make

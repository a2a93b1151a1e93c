"""A model as a function of tensors alone, for torch.export, torch.compile and other runtimes.

N images, D detections an image, H x W the frame of the network, h x w an image in it, R the side of a mask. The models
themselves have no branch for this; :meth:`OneStageDetector.predict_tensors` is all that is used of them.
"""

import torch
from torch import nn
from torch.nn import functional as F

from ..modeling.one_stage import OneStageDetector, Prediction
from .panoptic import panoptic_maps
from .paste import paste_separably

__all__ = ["TensorModel", "resize_images"]


def resize_images(images: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Resize images as Pillow's bilinear filter does but for rounding between rows and columns.

    By matrix products: onnxruntime's antialiased Resize differs from PyTorch's by up to ten levels.

    Args:
        images: (N, 3, h, w) float, whole numbers 0 to 255.
        size: (h', w').

    Returns:
        (N, 3, h', w'), whole numbers.
    """
    rows, columns = (_triangles(images.shape[i], size[i - 2], images) for i in (2, 3))  # (h', h), (w', w)
    return (rows @ images @ columns.t()).round().clamp(0, 255)


def _triangles(given: int, wanted: int, like: torch.Tensor) -> torch.Tensor:
    """Return the weights of ``given`` cells in ``wanted`` ones, (wanted, given): triangles around the latter's centers,
    as wide as two cells of the coarser of both grids."""
    scale = given / wanted
    centers = (torch.arange(wanted, dtype=like.dtype, device=like.device) + 0.5) * scale
    cells = torch.arange(given, dtype=like.dtype, device=like.device) + 0.5
    weights = F.relu(1 - (cells - centers[:, None]).abs() / max(scale, 1.0))
    return weights / weights.sum(dim=1, keepdim=True)


class TensorModel(nn.Module):
    """uint8 images in, tensors of fixed size out: normalization, padding and the network, without data-dependent sizes.

    Example::

        found = TensorModel(model)(images, sizes)
        found["boxes"][0][found["valid"][0]]     # (x, 4), the detections of the first image
    """

    def __init__(
        self,
        model: OneStageDetector,
        *,
        resize_to: tuple[int, int] | None = None,
        frame: tuple[int, int] | None = None,
        paste: bool = False,
    ):
        """
        Args:
            model: in evaluation mode. It is not changed.
            resize_to: (h, w): images of any other size are resized to it first, all of them, as Pillow's bilinear
                filter does but for rounding; they are then padded to ``frame``. None: images come in the frame.
            frame: (H, W), with ``resize_to``.
            paste: also return masks at the size of the images, in place of those in their boxes.
        """
        super().__init__()
        self.model = model
        self.resize_to, self.frame, self.paste = resize_to, frame, paste

    def forward(self, images: torch.Tensor, sizes: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        """Predict.

        Args:
            images: (N, 3, H, W) uint8, in the channel order of the model, padded with anything to H x W, which the
                model's size divisibility divides; with ``resize_to`` (N, 3, h', w') of any size.
            sizes: (N, 2) int64, the heights and widths of the images without their padding. None with ``resize_to``.

        Returns:
            ``boxes`` (N, D, 4) float, (x0, y0, x1, y1) in pixels of ``images``, not clipped; ``scores`` (N, D);
            ``classes`` (N, D) int64; ``valid`` (N, D) bool, false for padding; where the model has masks, ``masks``
            (N, D, R, R) float, probabilities in the boxes, or with ``paste`` (N, D, H, W) bool; of a panoptic model
            also, without ``resize_to``, :func:`~.panoptic.panoptic_maps`.
        """
        given = images.shape[0], *images.shape[-2:]
        x, inside = self._prepared(images, sizes)
        found = self.model.predict_tensors(x * inside)
        return self._named(found, given, sizes)

    def _prepared(self, images: torch.Tensor, sizes: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        """Return normalized images (N, 3, H, W), and 1 where they are images and 0 where they are padding."""
        mean, std = self.model.pixel_mean, self.model.pixel_std
        x = images.to(mean.dtype)
        if self.resize_to is None:
            y = torch.arange(x.shape[2], device=x.device)[:, None] < sizes[:, 0, None, None]  # (N, H, 1)
            along_x = torch.arange(x.shape[3], device=x.device) < sizes[:, 1, None, None]  # (N, 1, W)
            inside = (y & along_x)[:, None].to(x.dtype)  # (N, 1, H, W)
        else:
            x = resize_images(x, self.resize_to)
            inside = x.new_ones(())
        x = (x - mean) / std
        if self.resize_to is not None:
            (height, width), (h, w) = self.frame, self.resize_to
            x = F.pad(x, (0, width - w, 0, height - h))
        return x, inside

    def _named(
        self, found: Prediction, given: tuple[int, int, int], sizes: torch.Tensor | None
    ) -> dict[str, torch.Tensor]:
        detections = found.detections
        boxes = detections.boxes
        if self.resize_to is not None:
            h, w = self.resize_to
            scale = [given[2] / w, given[1] / h]
            boxes = torch.stack([boxes[..., i] * scale[i % 2] for i in range(4)], dim=-1)
        named = {
            "boxes": boxes, "scores": detections.scores, "classes": detections.classes, "valid": detections.valid
        }  # fmt: skip
        if "pred_masks" in found.fields:
            masks = found.fields["pred_masks"][:, :, 0]  # (N, D, R, R)
            named["masks"] = paste_separably(masks, boxes, given[1:]) if self.paste else masks
        return named if sizes is None else {**named, **panoptic_maps(self.model, found, sizes)}

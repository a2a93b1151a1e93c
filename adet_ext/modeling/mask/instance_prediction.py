"""Turn the numbers that a location predicts into a mask: the base class, and how attentions weight bases.

N images, C channels of the bases, K of those that attentions weight, D instances, E numbers of an embedding, M and R
the sides of attentions and masks, h x w the bases of one image, s their stride.
"""

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from ...layers.blend_reference import crop_bases

__all__ = ["InstancePrediction", "spread", "weighted_maps"]


class InstancePrediction(nn.Module):
    """From an embedding to a mask: in the box, cropped to R x R, or over the bases of the image as they are."""

    # The field of an image's instances that holds their embeddings, where a model hands them out.
    field = "embeddings"
    embedding_length: int  # E

    def __init__(self, *, crop: dict[str, Any]):
        """
        Args:
            crop: keyword arguments of :func:`~adet_ext.layers.blend_reference.crop_bases`: ``size`` R, ...
        """
        super().__init__()
        self.crop_options = crop

    def initial_embedding(self) -> torch.Tensor:
        """Return what embeddings start around, (E,): the bias of the layer that predicts them."""
        return torch.zeros(self.embedding_length)

    def crop(self, bases: torch.Tensor, boxes: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        """Crop (N, C, h, w) bases by (D, 4) boxes on their images (D,): (D, C, R, R); equation 4.1."""
        return crop_bases(bases, boxes, image, **self.crop_options)

    def forward(
        self, bases: torch.Tensor, embeddings: torch.Tensor, boxes: torch.Tensor, image: torch.Tensor
    ) -> torch.Tensor:
        """Return mask logits in the boxes.

        Args:
            bases: (N, C, h, w).
            embeddings: (D, E).
            boxes: (D, 4), absolute (x0, y0, x1, y1) in pixels of the network's input.
            image: (D,) int64.

        Returns:
            (D, R, R).
        """
        raise NotImplementedError(f"{type(self).__name__} must define forward")

    def over_image(
        self, bases: torch.Tensor, embeddings: torch.Tensor, boxes: torch.Tensor, first_row: int = 0
    ) -> torch.Tensor:
        """Return logits of the instances of one image at every place of its bases (equation 5.9).

        Args:
            bases: (C, h, w), or a strip of h rows.
            embeddings: (D, E).
            boxes: (D, 4), in pixels of the network's input; attentions span them, and continue at their edges.
            first_row: where the strip starts.

        Returns:
            (D, h, w).
        """
        raise NotImplementedError(f"{type(self).__name__} must define over_image")

    # What explains a mask. Drawing needs no more than these four; see adet_ext.visualize.explain.

    @property
    def is_sum(self) -> bool:
        """Return whether a mask's logits are a sum of maps, so that :meth:`maps` can follow it."""
        return True

    def maps(
        self, bases: torch.Tensor, embeddings: torch.Tensor | None, boxes: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """Return the maps that the masks of one image's instances are sums of.

        Args:
            bases: (C, h, w).
            embeddings: (D, E); None where nothing is predicted.
            boxes: (D, 4), in pixels of the network's input.

        Returns:
            tensors (D, ...) by the names of :class:`adet_ext.visualize.maps.InstanceMaps`; ``logits`` (D, R, R) is
            always there. Empty where :attr:`is_sum` is false.
        """
        raise NotImplementedError(f"{type(self).__name__} must define maps")

    def blending(
        self, bases: torch.Tensor, embeddings: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Return the bases (K, h, w) that attentions weight and the attentions (D, K, M, M), before their softmax.

        None where the weighted bases are not common to all instances of the image, or attentions are not predicted.

        Args:
            bases: (C, h, w).
            embeddings: (D, E); None where nothing is predicted.
        """
        return None

    def components(self) -> torch.Tensor | None:
        """Return the maps (K, r, M, M) that all attentions are weighted sums of; None where they are free."""
        return None


def weighted_maps(
    attentions: torch.Tensor, projected: torch.Tensor, *, top_interp: str, softmax: bool = True
) -> dict[str, torch.Tensor]:
    """Weight (D, K, R, R) bases in their boxes by (D, K, M, M) attentions, keeping every step.

    Returns:
        ``attentions``, ``projected``, ``weights`` (D, K, R, R) if there is a softmax, ``products`` (D, K, R, R) and
        their sum, ``logits`` (D, R, R).
    """
    weights = F.interpolate(attentions, projected.shape[-2:], mode=top_interp)  # (D, K, R, R)
    shares = {}
    if softmax:
        weights = weights.softmax(dim=1)
        shares["weights"] = weights
    products = weights * projected
    return {
        "attentions": attentions, "projected": projected, **shares, "products": products, "logits": products.sum(dim=1)
    }  # fmt: skip


def spread(
    attentions: torch.Tensor, boxes: torch.Tensor, size: torch.Size, stride: float, first_row: int = 0
) -> torch.Tensor:
    """Spread attention maps over their boxes, bilinearly and continued at the edges: (D, K, M, M) -> (D, K, h, w).

    Rows and columns are interpolated separately, as two small matrix products: cheaper than sampling, and the backward
    pass sums nothing in an undefined order.
    """
    side = attentions.shape[-1]
    height, width = size
    rows = (torch.arange(height, device=boxes.device) + (first_row + 0.5)) * stride
    columns = (torch.arange(width, device=boxes.device) + 0.5) * stride
    along_y = _weights(rows, boxes[:, 1], boxes[:, 3], side).to(attentions.dtype)
    along_x = _weights(columns, boxes[:, 0], boxes[:, 2], side).to(attentions.dtype)
    return along_y[:, None] @ attentions @ along_x[:, None].transpose(2, 3)


def _weights(places: torch.Tensor, low: torch.Tensor, high: torch.Tensor, side: int) -> torch.Tensor:
    """Return the weights of ``side`` samples, evenly spaced from ``low`` to ``high`` (D,), at ``places`` (n,):
    (D, n, side)."""
    length = (high - low).clamp(min=1e-3)
    at = ((places - low[:, None]) / length[:, None] * side - 0.5).clamp(0, side - 1)  # (D, n)
    return F.relu(1 - (at[..., None] - torch.arange(side, device=places.device)).abs())

"""Instance prediction modules of DR1Mask (thesis 5.4.2, equations 5.7 and 5.8; Tables 5.4 and 5.7).

N images, D channels of the bases F, K of the projected ones, G instances, E numbers of an embedding, M, R the sides of
attentions and masks, r the rank, h x w the bases of one image, s their stride.
"""

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from ...layers.blend import blend_factored, blend_masks, blend_vector

__all__ = ["FactoredPrediction", "FullPrediction", "InstancePrediction", "VectorPrediction", "build_prediction"]


class InstancePrediction(nn.Module):
    """From an embedding to a mask: in the box, cropped to R x R, or over the bases of the image as they are."""

    embedding_length: int  # E

    def __init__(self, *, crop: dict[str, Any]):
        """
        Args:
            crop: keyword arguments of :func:`adet_ext.layers.blend.crop_bases`: ``size`` R, ``scale`` 1 / s, ...
        """
        super().__init__()
        self.crop = crop

    def initial_embedding(self) -> torch.Tensor:
        """(E,) what embeddings start around: the bias of the layer that predicts them."""
        return torch.zeros(self.embedding_length)

    def forward(
        self, bases: torch.Tensor, embeddings: torch.Tensor, boxes: torch.Tensor, image: torch.Tensor
    ) -> torch.Tensor:
        """Mask logits in the boxes.

        Args:
            bases: (N, D, h, w).
            embeddings: (G, E).
            boxes: (G, 4), absolute (x0, y0, x1, y1) in pixels of the network's input.
            image: (G,) int64.

        Returns:
            (G, R, R).
        """
        raise NotImplementedError(f"{type(self).__name__} has to define forward")

    def over_image(
        self, bases: torch.Tensor, embeddings: torch.Tensor, boxes: torch.Tensor, first_row: int = 0
    ) -> torch.Tensor:
        """Logits of the instances of one image at every place of its bases (equation 5.9).

        Args:
            bases: (D, h, w), or a strip of h rows.
            embeddings: (G, E).
            boxes: (G, 4), in pixels of the network's input; attentions lie over them, and continue at their edges.
            first_row: where the strip starts.

        Returns:
            (G, h, w).
        """
        raise NotImplementedError(f"{type(self).__name__} has to define over_image")


class VectorPrediction(InstancePrediction):
    """A weight for each channel, as in YOLACT."""

    def __init__(self, *, width: int, **common):
        super().__init__(**common)
        self.embedding_length = width

    def forward(self, bases, embeddings, boxes, image):
        return blend_vector(bases, embeddings, boxes, image, **self.crop)

    def over_image(self, bases, embeddings, boxes, first_row=0):
        return (embeddings @ bases.flatten(1)).unflatten(1, bases.shape[1:])


class FullPrediction(InstancePrediction):
    """BlendMask's blender: every embedding is K attention maps. A static 1x1 convolution makes the K bases they weight,
    as one layer for wider bases, or a predicted projection, would be what section 5.4.2 rules out."""

    def __init__(self, *, width: int, num_bases: int, side: int, top_interp: str, **common):
        super().__init__(**common)
        self.num_bases, self.side, self.top_interp = num_bases, side, top_interp
        self.embedding_length = num_bases * side**2
        self.project = nn.Conv2d(width, num_bases, 1)
        nn.init.kaiming_uniform_(self.project.weight, a=1)
        nn.init.zeros_(self.project.bias)

    def forward(self, bases, embeddings, boxes, image):
        attentions = self._attentions(embeddings)
        return blend_masks(self.project(bases), attentions, boxes, image, top_interp=self.top_interp, **self.crop)

    def over_image(self, bases, embeddings, boxes, first_row=0):
        stride = 1 / self.crop["scale"]
        weights = spread(self._attentions(embeddings), boxes, bases.shape[1:], stride, first_row).softmax(dim=1)
        return torch.einsum("gkyx,kyx->gyx", weights, self.project(bases[None])[0])

    def _attentions(self, embeddings: torch.Tensor) -> torch.Tensor:
        return embeddings.view(-1, self.num_bases, self.side, self.side)


class FactoredPrediction(InstancePrediction):
    """An embedding is a projection t of D bases to K, and r factors sigma for each of the K attention maps
    Q_k = U_k^T diag(sigma_k) V_k. U and V are parameters, common to all instances."""

    def __init__(self, *, width: int, num_bases: int, side: int, rank: int, softmax: bool, top_interp: str, **common):
        super().__init__(**common)
        self.num_bases, self.rank, self.softmax, self.top_interp = num_bases, rank, softmax, top_interp
        self.lengths = [width * num_bases, num_bases * rank]
        self.embedding_length = sum(self.lengths)
        self.u = nn.Parameter(torch.empty(num_bases, rank, side))
        self.v = nn.Parameter(torch.empty(num_bases, rank, side))
        nn.init.normal_(self.u, std=rank**-0.25)  # products of rank terms that have variance one
        nn.init.normal_(self.v, std=rank**-0.25)

    def initial_embedding(self):
        embedding = super().initial_embedding()
        if not self.softmax:
            # With both factors of a product around zero neither would learn. The softmax starts at 1 / K.
            embedding[self.lengths[0] :] = 1
        return embedding

    def components(self) -> torch.Tensor:
        """(K, r, M, M): the maps that one-hot factors give (thesis Figure 5.5)."""
        return torch.einsum("kry,krx->kryx", self.u, self.v)

    def attentions(self, embeddings: torch.Tensor) -> torch.Tensor:
        """(G, E) -> (G, K, M, M), before a softmax (equation 5.8)."""
        sigma = embeddings.split(self.lengths, dim=1)[1].unflatten(1, (self.num_bases, self.rank))
        return torch.einsum("gkr,kry,krx->gkyx", sigma, self.u, self.v)

    def forward(self, bases, embeddings, boxes, image):
        t, sigma = embeddings.split(self.lengths, dim=1)
        return blend_factored(
            bases, t, sigma, self.u, self.v, boxes, image,
            top_interp=self.top_interp, normalise=self.softmax, **self.crop,
        )  # fmt: skip

    def over_image(self, bases, embeddings, boxes, first_row=0):
        stride = 1 / self.crop["scale"]
        weights = spread(self.attentions(embeddings), boxes, bases.shape[1:], stride, first_row)
        if self.softmax:
            weights = weights.softmax(dim=1)
        t = embeddings[:, : self.lengths[0]].reshape(-1, bases.shape[0])  # (G K, D)
        projected = (t @ bases.flatten(1)).view_as(weights)  # (G, K, h, w)
        return (weights * projected).sum(dim=1)


def spread(
    attentions: torch.Tensor, boxes: torch.Tensor, size: torch.Size, stride: float, first_row: int = 0
) -> torch.Tensor:
    """Lay attention maps over their boxes, bilinearly and continued at the edges: (G, K, M, M) -> (G, K, h, w).

    Interpolation goes by rows and columns apart, as two small matrix products: cheaper than sampling, and its backward
    pass adds nothing up in an undefined order.
    """
    side = attentions.shape[-1]
    height, width = size
    rows = (torch.arange(height, device=boxes.device) + (first_row + 0.5)) * stride
    columns = (torch.arange(width, device=boxes.device) + 0.5) * stride
    along_y = _weights(rows, boxes[:, 1], boxes[:, 3], side).to(attentions.dtype)
    along_x = _weights(columns, boxes[:, 0], boxes[:, 2], side).to(attentions.dtype)
    return along_y[:, None] @ attentions @ along_x[:, None].transpose(2, 3)


def _weights(places: torch.Tensor, low: torch.Tensor, high: torch.Tensor, side: int) -> torch.Tensor:
    """Weights of ``side`` samples, evenly laid between ``low`` and ``high`` (G,), at ``places`` (n,): (G, n, side)."""
    length = (high - low).clamp(min=1e-3)
    at = ((places - low[:, None]) / length[:, None] * side - 0.5).clamp(0, side - 1)  # (G, n)
    return F.relu(1 - (at[..., None] - torch.arange(side, device=places.device)).abs())


def build_prediction(cfg, *, width: int, stride: float) -> InstancePrediction:
    """The module that ``cfg.MODEL.DR1MASK.ATTENTION`` names, for bases of ``width`` channels at ``stride``."""
    dr1, blend = cfg.MODEL.DR1MASK, cfg.MODEL.BLENDMASK
    crop = {
        "size": blend.BOTTOM_RESOLUTION,
        "scale": 1 / stride,
        "sampling_ratio": blend.POOLER_SAMPLING_RATIO,
        "pooler_type": blend.POOLER_TYPE,
    }
    common: dict[str, Any] = {"width": width, "crop": crop}
    maps = {
        "num_bases": cfg.MODEL.BASIS_MODULE.NUM_BASES, "side": blend.ATTN_SIZE, "top_interp": blend.TOP_INTERP
    }  # fmt: skip
    if blend.TOP_INTERP not in ("nearest", "bilinear"):
        raise ValueError(f"MODEL.BLENDMASK.TOP_INTERP is {blend.TOP_INTERP!r}; it can be nearest or bilinear")
    if dr1.ATTENTION == "vector":
        return VectorPrediction(**common)
    if dr1.ATTENTION == "full":
        return FullPrediction(**common, **maps)
    if dr1.ATTENTION == "factored":
        return FactoredPrediction(**common, **maps, rank=dr1.RANK, softmax=dr1.ATTENTION_SOFTMAX)
    raise ValueError(f"MODEL.DR1MASK.ATTENTION is {dr1.ATTENTION!r}; it can be vector, full or factored")

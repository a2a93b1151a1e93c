"""Instance prediction modules of DR1Mask (thesis 5.4.2, equations 5.7 and 5.8; Tables 5.4 and 5.7).

N images, C channels of the bases F, K of the projected ones, D instances, E numbers of an embedding, M, R the sides of
attentions and masks, r the rank, h x w the bases of one image, s their stride.
"""

from typing import Any

import torch
from torch import nn

from ...layers.blend_factored import blend_factored, blend_vector
from ..checks import check_choice
from .blender import Blender
from .instance_prediction import InstancePrediction, spread, weighted_maps

__all__ = ["FactoredPrediction", "FullPrediction", "VectorPrediction", "build_prediction"]


class VectorPrediction(InstancePrediction):
    """A weight for each channel, as in YOLACT."""

    def __init__(self, *, width: int, crop: dict[str, Any]):
        super().__init__(crop=crop)
        self.embedding_length = width

    def forward(self, bases, embeddings, boxes, image):
        return blend_vector(bases, embeddings, boxes, image, **self.crop_options)

    def over_image(self, bases, embeddings, boxes, first_row=0):
        return (embeddings @ bases.flatten(1)).unflatten(1, bases.shape[1:])

    def maps(self, bases, embeddings, boxes):
        crops = self.crop(bases[None], boxes, boxes.new_zeros(boxes.shape[0], dtype=torch.int64))  # (D, C, R, R)
        return {"channels": embeddings, "logits": torch.einsum("gd,gdyx->gyx", embeddings, crops)}


class FullPrediction(Blender):
    """BlendMask's blender on K static projections of the bases: every embedding is K attention maps.

    The projection is a static 1x1 convolution, as section 5.4.2 rules out wider bases and a predicted projection.
    """

    field = InstancePrediction.field

    def __init__(self, *, width: int, num_bases: int, side: int, top_interp: str, crop: dict[str, Any]):
        """
        Args:
            width, num_bases, side: C, K, M.
        """
        options = {**crop, "mask_size": crop["size"]}
        del options["size"]
        super().__init__(num_bases=num_bases, attention_size=side, top_interp=top_interp, **options)
        self.project = nn.Conv2d(width, num_bases, 1)
        nn.init.kaiming_uniform_(self.project.weight, a=1)
        nn.init.zeros_(self.project.bias)

    def forward(self, bases, embeddings, boxes, image):
        return super().forward(self.project(bases), embeddings, boxes, image)

    def over_image(self, bases, embeddings, boxes, first_row=0):
        return super().over_image(self.project(bases[None])[0], embeddings, boxes, first_row)

    def maps(self, bases, embeddings, boxes):
        return super().maps(self.project(bases[None])[0], embeddings, boxes)

    def blending(self, bases, embeddings):
        return super().blending(self.project(bases[None])[0], embeddings)


class FactoredPrediction(InstancePrediction):
    """An embedding is a projection t of C bases to K, and r factors sigma for each of the K attention maps
    Q_k = U_k^T diag(sigma_k) V_k. U and V are parameters, common to all instances."""

    def __init__(
        self, *, width: int, num_bases: int, side: int, rank: int, softmax: bool, top_interp: str, crop: dict[str, Any]
    ):
        """
        Args:
            width, num_bases, side, rank: C, K, M, r.
            softmax: over the K attention maps, at each place.
        """
        super().__init__(crop=crop)
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
        """Return the maps that one-hot factors give, (K, r, M, M) (thesis Figure 5.5)."""
        return torch.einsum("kry,krx->kryx", self.u, self.v)

    def attentions(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Return the attention maps before a softmax: (D, E) -> (D, K, M, M) (equation 5.8)."""
        sigma = embeddings.split(self.lengths, dim=1)[1].unflatten(1, (self.num_bases, self.rank))
        return torch.einsum("gkr,kry,krx->gkyx", sigma, self.u, self.v)

    def forward(self, bases, embeddings, boxes, image):
        t, sigma = embeddings.split(self.lengths, dim=1)
        return blend_factored(
            bases, t, sigma, self.u, self.v, boxes, image,
            top_interp=self.top_interp, normalize=self.softmax, **self.crop_options,
        )  # fmt: skip

    def over_image(self, bases, embeddings, boxes, first_row=0):
        stride = 1 / self.crop_options["scale"]
        weights = spread(self.attentions(embeddings), boxes, bases.shape[1:], stride, first_row)
        if self.softmax:
            weights = weights.softmax(dim=1)
        t = embeddings[:, : self.lengths[0]].reshape(-1, bases.shape[0])  # (D K, C)
        projected = (t @ bases.flatten(1)).view_as(weights)  # (D, K, h, w)
        return (weights * projected).sum(dim=1)

    def maps(self, bases, embeddings, boxes):
        t = embeddings[:, : self.lengths[0]].unflatten(1, (self.num_bases, -1))  # (D, K, C)
        crops = self.crop(bases[None], boxes, boxes.new_zeros(boxes.shape[0], dtype=torch.int64))  # (D, C, R, R)
        projected = torch.einsum("gkd,gdyx->gkyx", t, crops)
        softmax = self.softmax and self.num_bases > 1
        return weighted_maps(self.attentions(embeddings), projected, top_interp=self.top_interp, softmax=softmax)


def build_prediction(cfg, *, width: int, stride: float) -> InstancePrediction:
    """Build the module that ``cfg.MODEL.DR1MASK.ATTENTION`` names, for bases of ``width`` channels at ``stride``."""
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
    check_choice("MODEL.BLENDMASK.TOP_INTERP", blend.TOP_INTERP, ("nearest", "bilinear"))
    check_choice("MODEL.DR1MASK.ATTENTION", dr1.ATTENTION, ("vector", "full", "factored"))
    if dr1.ATTENTION == "vector":
        return VectorPrediction(**common)
    if dr1.ATTENTION == "full":
        return FullPrediction(**common, **maps)
    return FactoredPrediction(**common, **maps, rank=dr1.RANK, softmax=dr1.ATTENTION_SOFTMAX)

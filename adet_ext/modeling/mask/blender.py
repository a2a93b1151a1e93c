"""The blender (thesis 4.3.2): K attention maps an instance weight K bases, cropped by its box.

N images, K bases, B boxes, D masks, M and R the sides of attentions and masks.
"""

import torch

from ...layers.blend_masks import assemble_masks, blend_masks
from ...layers.blend_reference import assemble, merge_crops
from ..checks import check_choice
from .instance_prediction import InstancePrediction, spread, weighted_maps

__all__ = ["Blender"]


class Blender(InstancePrediction):
    """Crops bases by boxes and merges each crop into a mask. It has no parameters; embeddings are attentions."""

    field = "top_feat"  # AdelaiDet's name

    def __init__(
        self,
        *,
        num_bases: int,
        attention_size: int,
        mask_size: int,
        scale: float,
        sampling_ratio: int = 1,
        pooler_type: str = "ROIAlignV2",
        top_interp: str = "bilinear",
        merge: str = "blender",
    ):
        """
        Args:
            num_bases, attention_size, mask_size: K, M, R; a model is called R_K_M after them.
            scale: 1 / stride of the bases.
            merge: "blender", or "assembler" for fixed one-hot attentions, which needs K = M^2 bases.
        """
        check_choice("MODEL.BLENDMASK.MERGE", merge, ("blender", "assembler"))
        if merge == "assembler" and num_bases != attention_size**2:
            raise ValueError(
                f"MODEL.BASIS_MODULE.NUM_BASES must be MODEL.BLENDMASK.ATTN_SIZE squared, {attention_size**2}, for the "
                f"assembler, which has one basis per cell; got {num_bases}"
            )
        check_choice("MODEL.BLENDMASK.TOP_INTERP", top_interp, ("nearest", "bilinear"))
        crop = {"size": mask_size, "scale": scale, "sampling_ratio": sampling_ratio, "pooler_type": pooler_type}
        super().__init__(crop=crop)
        self.num_bases = num_bases
        self.attention_size = attention_size
        self.top_interp = top_interp
        self.fixed = merge == "assembler"
        # K M^2, or nothing where the attentions are fixed.
        self.embedding_length = 0 if self.fixed else num_bases * attention_size**2

    @classmethod
    def from_config(cls, cfg) -> "Blender":
        options = cfg.MODEL.BLENDMASK
        if len(options.POOLER_SCALES) != 1:
            raise ValueError(
                "MODEL.BLENDMASK.POOLER_SCALES must have one scale, as bases have one stride; got "
                f"{options.POOLER_SCALES}"
            )
        return cls(
            num_bases=cfg.MODEL.BASIS_MODULE.NUM_BASES,
            attention_size=options.ATTN_SIZE,
            mask_size=options.BOTTOM_RESOLUTION,
            scale=options.POOLER_SCALES[0],
            sampling_ratio=options.POOLER_SAMPLING_RATIO,
            pooler_type=options.POOLER_TYPE,
            top_interp=options.TOP_INTERP,
            merge=options.MERGE,
        )

    def forward(
        self,
        bases: torch.Tensor,
        attentions: torch.Tensor | None,
        boxes: torch.Tensor,
        image: torch.Tensor,
        objects: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Crop and merge, in one pass if the compiled operator supports it.

        Args:
            bases: (N, K, h, w).
            attentions: (D, K M^2) logits; None where they are fixed.
            boxes, image: (B, 4) and (B,).
            objects: (D,) the box of each mask; None: box d is that of mask d.

        Returns:
            (D, R, R) mask logits.
        """
        options = self.crop_options
        if attentions is None:
            return assemble_masks(bases, boxes, image, side=self.attention_size, objects=objects, **options)
        attentions = self.attentions(attentions)
        return blend_masks(bases, attentions, boxes, image, top_interp=self.top_interp, objects=objects, **options)

    def attentions(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Return (D, K M^2) numbers as (D, K, M, M) maps."""
        return embeddings.view(-1, self.num_bases, self.attention_size, self.attention_size)

    def merge(self, crops: torch.Tensor, attentions: torch.Tensor | None) -> torch.Tensor:
        """Merge (D, K, R, R) crops by (D, K M^2) attention logits: (D, R, R) mask logits; equations 4.2 to 4.4."""
        if attentions is None:
            return assemble(crops, self.attention_size)
        return merge_crops(crops, self.attentions(attentions), top_interp=self.top_interp)

    def over_image(
        self, bases: torch.Tensor, embeddings: torch.Tensor, boxes: torch.Tensor, first_row: int = 0
    ) -> torch.Tensor:
        attentions = self.attentions(embeddings)
        weights = spread(attentions, boxes, bases.shape[1:], 1 / self.crop_options["scale"], first_row).softmax(dim=1)
        return torch.einsum("gkyx,kyx->gyx", weights, bases)

    @property
    def is_sum(self) -> bool:
        # A single basis and its attention are multiplied as probabilities (section 4.4.1).
        return not self.fixed and self.num_bases > 1

    def maps(
        self, bases: torch.Tensor, embeddings: torch.Tensor | None, boxes: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        if not self.is_sum:
            return {}
        crops = self.crop(bases[None], boxes, boxes.new_zeros(boxes.shape[0], dtype=torch.int64))
        return weighted_maps(self.attentions(embeddings), crops, top_interp=self.top_interp)

    def blending(
        self, bases: torch.Tensor, embeddings: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor] | None:
        return None if self.fixed else (bases, self.attentions(embeddings))

"""DR1Mask's top layer (thesis 5.4.2, equation 5.5): contexts at every location, embeddings where they are read.

N images, C_in channels of a level, C channels of DR1Basis, E numbers of an embedding, P chosen locations.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from ...layers.sparse_conv import conv_at
from ..checks import check_choice
from ..fcos.head import HeadOutput

__all__ = ["SOURCES", "Context", "TopLayer"]

Context = tuple[torch.Tensor | None, torch.Tensor | None]  # A and B of one level, (N, C, H_l, W_l) each, or None

SOURCES = ("box_tower", "cls_tower", "fpn")


class TopLayer(nn.Module):
    """A 3x3 convolution on the detection towers, split in two: contexts are computed everywhere, embeddings only at the
    positive locations or the detections."""

    def __init__(
        self,
        *,
        in_channels: int,
        in_features: Sequence[str],
        width: int,
        embedding_length: int,
        context: str = "box_tower",
        embedding: str = "box_tower",
        use_a: bool = True,
        use_b: bool = True,
    ):
        """
        Args:
            in_channels: C_in, the same for towers and levels.
            in_features: names of FCOS' levels, finest first.
            width: C.
            embedding_length: E.
            context: what A and B are computed from: "box_tower", "cls_tower", "fpn" (the levels) or "none".
            embedding: what the embeddings are computed from, the same choices but "none".
            use_a, use_b: whether to predict A and B.
        """
        super().__init__()
        check_choice("MODEL.DR1MASK.CONTEXT", context, (*SOURCES, "none"))
        check_choice("MODEL.DR1MASK.EMBEDDING", embedding, SOURCES)
        self.in_features = list(in_features)
        self.context_source, self.embedding_source = context, embedding
        self.use_a, self.use_b = (use_a, use_b) if context != "none" else (False, False)
        self.context_layer = None
        factors = self.use_a + self.use_b
        if factors:
            # The factors start around one, where DR1Conv is its static convolution. Around zero, its output and
            # gradients would vanish.
            self.context_layer = _layer(in_channels, factors * width, bias=1.0)
        self.embedding_layer = _layer(in_channels, embedding_length, bias=0.0)

    def contexts(self, features: Mapping[str, torch.Tensor], output: HeadOutput) -> dict[str, Context]:
        """Return A and B of each level by name; empty if the context is "none"."""
        if self.context_layer is None:
            return {}
        contexts: dict[str, Context] = {}
        for name, x in zip(self.in_features, self._maps(self.context_source, features, output)):
            factors = self.context_layer(x)
            if self.use_a and self.use_b:
                contexts[name] = factors.chunk(2, dim=1)
            else:
                contexts[name] = (factors, None) if self.use_a else (None, factors)
        return contexts

    def embeddings(
        self, features: Mapping[str, torch.Tensor], output: HeadOutput, image: torch.Tensor, location: torch.Tensor
    ) -> torch.Tensor:
        """Return embeddings (P, E) at (P,) locations over all levels of (P,) images."""
        maps = self._maps(self.embedding_source, features, output)
        return conv_at(self.embedding_layer, maps, image, location)

    def _maps(self, source: str, features: Mapping[str, torch.Tensor], output: HeadOutput) -> Sequence[torch.Tensor]:
        return [features[name] for name in self.in_features] if source == "fpn" else getattr(output, source)


def _layer(in_channels: int, out_channels: int, bias: float) -> nn.Conv2d:
    layer = nn.Conv2d(in_channels, out_channels, 3, padding=1)
    nn.init.normal_(layer.weight, std=0.01)
    nn.init.constant_(layer.bias, bias)
    return layer

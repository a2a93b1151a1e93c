"""The semantic branch: one searched subnet on P2 to P5, attention from the foreground, and a classifier.

N images, C classes with 0 for all things; H, W the size of the images.
"""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from .attention import BranchAttention, change, joined_mean
from .heads import searched_layers

__all__ = ["SemanticBranch"]


class SemanticBranch(nn.Module):
    """Logits at the finest level; and what the foreground's attention reads.

    ``subnet`` and ``attention`` have the searched layers.
    """

    def __init__(
        self,
        *,
        layers: Sequence[Sequence[str]],
        attention: Sequence[Sequence[str]],
        in_features: Sequence[str],
        read: Sequence[str],
        channels: int,
        width: int,
        num_classes: int,
    ):
        """
        Args:
            layers, attention: the choices of the subnet's layers, and of the attention module of each level.
            in_features: the levels that the subnet runs on, finest first.
            read: the levels of the pyramid that the attention reads.
            channels: of the pyramid.
            width: of the subnet.
        """
        super().__init__()
        if len(attention) != len(in_features):
            raise ValueError(
                f"foreground_to_background must have a choice for each of {', '.join(in_features)}, of "
                f"MODEL.SEM_SEG_HEAD.IN_FEATURES; got {len(attention)}"
            )
        self.in_features, self.read = list(in_features), list(read)
        self.subnet = searched_layers(layers, channels, width)
        self.attention = BranchAttention(attention, len(read) * channels, width)
        self.classify = nn.Conv2d(len(in_features) * width, num_classes, 1)

    def levels(self, features: dict[str, torch.Tensor]) -> list[torch.Tensor]:
        """Return the subnet's outputs, (N, width, h, w) for each level."""
        return [self.subnet(features[name]) for name in self.in_features]

    def logits(self, levels: Sequence[torch.Tensor], features: dict[str, torch.Tensor]) -> torch.Tensor:
        """Return logits (N, C, h, w) at the size of the finest level."""
        size = tuple(levels[0].shape[-2:])
        attention = self.attention(joined_mean([features[name] for name in self.read], size))
        changed = [change(x, a) for x, a in zip(levels, attention)]
        joined = [F.interpolate(x, size=size, mode="bilinear", align_corners=True) for x in changed[1:]]
        return self.classify(torch.cat([changed[0], *joined], dim=1))

"""The static decoder that a genotype describes (nas-segm-pytorch; thesis Figure 6.2 shows arch2's cell).

N images, W the decoder's width, C classes; sizes h x w of a map.
"""

from collections.abc import Sequence

import torch
from torch import nn

from adet_ext.layers.cells import match

from .decoder_genotype import LAYERS, DecoderGenotype
from .operations import build_operation, conv_norm_relu

__all__ = ["ContextCell", "StaticDecoder"]


class ContextCell(nn.Module):
    """The cell of a decoder: (N, W, h, w) to (N, W, h, w)."""

    def __init__(self, genotype: DecoderGenotype, width: int, repeats: int):
        super().__init__()
        self.genotype = genotype
        self.first = build_operation(genotype.first, width, repeats)
        self.sums = nn.ModuleList(
            nn.ModuleList(build_operation(name, width, repeats) for name in entry.operations) for entry in genotype.sums
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        nodes = [x, self.first(x)]
        for entry, operations in zip(self.genotype.sums, self.sums):
            a, b = (operation(nodes[number]) for operation, number in zip(operations, entry.inputs))
            nodes += [a, b, a + b]
        return sum(nodes[number] for number in self.genotype.outputs)


class _Branch(nn.Sequential):
    def __init__(self, genotype: DecoderGenotype, width: int, repeats: int):
        super().__init__(ContextCell(genotype, width, repeats), conv_norm_relu(width, width))


class Block(nn.Module):
    """The cell on each of two features, each with weights of its own, 1x1 convolutions, and the sum at the larger size.

    A block of one feature twice has two cells on it all the same.
    """

    def __init__(self, genotype: DecoderGenotype, width: int, repeats: int):
        super().__init__()
        self.first, self.second = (_Branch(genotype, width, repeats) for _ in range(2))

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        x, y = match(self.first(x), self.second(y))
        return x + y


class StaticDecoder(nn.Module):
    """From the encoder's four features to *dec*, W channels at stride 8 in arch2, and *pred*, C channels.

    Every feature has an adapter to W channels (1x1 convolution, norm, ReLU), also one that no block takes, as the
    published parameter counts have it. The features of the blocks that no block takes are concatenated at the largest
    size; ReLU and a 1x1 convolution, norm, ReLU give *dec*; a 3x3 convolution gives *pred*.
    """

    def __init__(
        self,
        *,
        genotype: DecoderGenotype,
        in_channels: Sequence[int],
        num_classes: int,
        width: int = 64,
        repeats: int = 2,
        auxiliary: bool = False,
        auxiliary_cells: bool = True,
        context: nn.Module | None = None,
    ):
        """
        Args:
            in_channels: of the encoder's features at strides 4, 8, 16 and 32.
            num_classes: C.
            width: W.
            repeats: of separable convolutions.
            auxiliary: make the classifiers of the blocks, which training alone needs.
            auxiliary_cells: give each of them a cell of its own before.
            context: a module that *dec* passes, which keeps its shape.
        """
        super().__init__()
        self.genotype, self.width = genotype, width
        self.adapters = nn.ModuleList(conv_norm_relu(channels, width) for channels in in_channels)
        self.blocks = nn.ModuleList(Block(genotype, width, repeats) for _ in genotype.blocks)
        self.project = conv_norm_relu(width * len(genotype.collected), width)
        self.context = context or nn.Identity()
        self.classifier = nn.Conv2d(width, num_classes, 3, padding=1)
        self.auxiliary = nn.ModuleList()
        for _ in genotype.blocks if auxiliary else ():
            cell = [ContextCell(genotype, width, repeats)] if auxiliary_cells else []
            self.auxiliary.append(nn.Sequential(*cell, nn.Conv2d(width, num_classes, 3, padding=1)))

    def forward(self, features: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return *dec* (N, W, h, w) and *pred* (N, C, h, w) from four features (N, C_i, H / s, W / s)."""
        dec = self._dec(self._blocks(features))
        return dec, self.classifier(dec)

    def with_auxiliary(self, features: Sequence[torch.Tensor]) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Return *pred* (N, C, h, w) and the auxiliary predictions, (N, C, ...) of a size of their own each."""
        pool = self._blocks(features)
        found = [head(feature) for head, feature in zip(self.auxiliary, pool[len(LAYERS) :])]
        return self.classifier(self._dec(pool)), found

    def _blocks(self, features: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        taken = {number for pair in self.genotype.blocks for number in pair}
        pool = [self.adapters[i](x) if i in taken else x for i, x in enumerate(features)]
        for (first, second), block in zip(self.genotype.blocks, self.blocks):
            pool.append(block(pool[first], pool[second]))
        return pool

    def _dec(self, pool: Sequence[torch.Tensor]) -> torch.Tensor:
        first, *others = (pool[number] for number in self.genotype.collected)
        collected = first
        for other in others:
            collected = torch.cat(match(collected, other), dim=1)
        return self.context(self.project(collected.relu()))

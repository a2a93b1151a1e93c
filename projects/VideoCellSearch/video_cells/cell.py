"""The dynamic cell (thesis 6.3): the segmentation of a frame from its encoder's features and from the frame before.

N images, W the width, C classes; h x w the places of a map.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from adet_ext.layers.cells import larger_size, resize

from .aggregations import build_aggregation
from .genotype import CELL_INPUTS, CellGenotype, CellLayer
from .operations import build_operation, conv_norm_relu

__all__ = ["DynamicCell", "FrameState", "Layer"]

_FROM_BEFORE = tuple(i for i, name in enumerate(CELL_INPUTS) if name.startswith("previous_"))


class FrameState(NamedTuple):
    """What a frame leaves for the next: *layer 4* (N, C_4, H / 32, W / 32) and *dec* (N, W, h, w)."""

    layer4: torch.Tensor
    dec: torch.Tensor


class Layer(nn.Module):
    """An operation on each of two features, then their aggregation."""

    def __init__(self, layer: CellLayer, width: int):
        super().__init__()
        self.first, self.second = (build_operation(name, width) for name in layer.operations)
        self.merge = build_aggregation(layer.aggregation, width)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return self.merge(self.first(x), self.second(y))


class DynamicCell(nn.Module):
    """From *layer 4* and *dec* of the frame before and *layers 2 to 4* of this one to *dec* of this one.

    Not printed, and as in nas-segm-pytorch: every input has an adapter to W channels (1x1 convolution, norm, ReLU); the
    results that no layer takes are concatenated at the largest size, and ReLU and a 1x1 convolution, norm, ReLU bring
    them to W channels, so that they can be the *dec* before the next frame.

    Args:
        in_channels: of the five inputs.
        width: W, that of the static decoder.
        num_classes: C of a classifier of the cell's own, a 3x3 convolution; 0 for none.
    """

    def __init__(self, *, genotype: CellGenotype, in_channels: Sequence[int], width: int = 64, num_classes: int = 0):
        super().__init__()
        self.genotype, self.width = genotype, width
        self.adapters = nn.ModuleList(conv_norm_relu(channels, width) for channels in in_channels)
        self.layers = nn.ModuleList(Layer(layer, width) for layer in genotype.layers)
        self.project = conv_norm_relu(width * len(genotype.unsampled), width)
        self.classifier = nn.Conv2d(width, num_classes, 3, padding=1) if num_classes else None

    def step(
        self,
        layers: Sequence[torch.Tensor],
        state: FrameState,
        classifier: nn.Module | None = None,
        connected: bool = True,
    ) -> tuple[torch.Tensor, FrameState]:
        """Return the logits of a frame (N, C, h, w), and what it leaves for the next.

        Args:
            layers: *layers 2 to 4* of the frame.
            state: what the frame before has left.
            classifier: serves a cell that has none of its own.
        """
        dec = self([*state, *layers], connected)
        return (self.classifier or classifier)(dec), FrameState(layers[-1], dec)

    def forward(self, inputs: Sequence[torch.Tensor], connected: bool = True) -> torch.Tensor:
        """Return *dec* (N, W, h, w) at the size of the largest feature that no layer takes.

        Args:
            inputs: the five, (N, C_i, ...) of a size of their own each.
            connected: whether the cell gets what it asks of the frame before. Else those two entries of its pool are
                zeros: nothing goes from frame to frame.
        """
        pool = [torch.Tensor()] * len(inputs)
        for number in self.genotype.sampled_inputs:  # the other adapters would be work for nothing
            pool[number] = self._adapted(number, inputs[number], connected)
        for layer, module in zip(self.genotype.layers, self.layers):
            pool.append(module(*(pool[number] for number in layer.inputs)))
        first, *others = (pool[number] for number in self.genotype.unsampled)
        parts = [first]
        for other in others:
            size = larger_size(parts[0], other)
            parts = [resize(part, size) for part in [*parts, other]]
        return self._projected(parts)

    def _projected(self, parts: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return the projection of the concatenation: each part convolved, and summed. The whole would be large."""
        conv, norm, relu = self.project
        weights = conv.weight.split(self.width, dim=1)
        return relu(norm(sum(F.conv2d(part.relu(), weight) for part, weight in zip(parts, weights))))

    def _adapted(self, number: int, x: torch.Tensor, connected: bool) -> torch.Tensor:
        if number in _FROM_BEFORE and not connected:
            return x.new_zeros(len(x), self.width, *x.shape[-2:])
        return self.adapters[number](x)

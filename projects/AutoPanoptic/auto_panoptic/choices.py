"""A searched layer: its candidates, one of which computes.

A supernet's layer has all candidates, a discrete network's has one. The names of the parameters are the same, so that a
discrete network starts from a supernet's weights.
"""

from collections.abc import Callable, Sequence

import torch
from torch import nn

__all__ = ["Choices", "MakeNorm"]

MakeNorm = Callable[[int], nn.Module]


class Choices(nn.Module):
    """The candidates of one layer. :meth:`choose` says which one computes; at first it is the first."""

    def __init__(self, names: Sequence[str], make: Callable[[str], nn.Module]):
        """
        Args:
            names: of the candidates.
            make: makes the candidate of a name.
        """
        super().__init__()
        self.candidates = nn.ModuleDict({name: make(name) for name in names})
        self.chosen = names[0]

    def choose(self, name: str) -> None:
        """Let the candidate of this name compute from now on."""
        if name not in self.candidates:
            raise ValueError(f"a layer's choice must be one of {', '.join(self.candidates)}; got {name!r}")
        self.chosen = name

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.candidates[self.chosen](x)

"""A cell of a discrete network: blocks that each add two operations, on the outputs of the two cells before."""

import torch
from torch import nn

from .genotype import Block
from .operations import MakeNorm, build_operation, resize

__all__ = ["Cell", "DropPath", "project"]


def project(in_channels: int, channels: int, make_norm: MakeNorm) -> nn.Sequential:
    """Return ReLU, a 1x1 convolution, and norm."""
    return nn.Sequential(nn.ReLU(), nn.Conv2d(in_channels, channels, 1, bias=False), make_norm(channels))


class DropPath(nn.Module):
    """Zero a branch for whole images, and scale it up for the others, in training alone.

    ``rate`` is set from outside as training goes on (scheduled drop path).
    """

    def __init__(self) -> None:
        super().__init__()
        self.rate = 0.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training or self.rate == 0:
            return x
        keep = 1 - self.rate
        return x * (torch.rand(len(x), 1, 1, 1, dtype=x.dtype, device=x.device) < keep) / keep


class Cell(nn.Module):
    """Maps the outputs of the two cells before to the concatenation of its B blocks, B f channels.

    A cell below the one before it ("down") applies the operations on ``previous`` and ``before`` with a stride of 2; a
    cell above it ("up") first doubles the size of ``previous``.
    """

    def __init__(
        self,
        blocks: tuple[Block, ...],
        channels: int,
        previous: int,
        before: int,
        step: int,
        make_norm: MakeNorm,
    ):
        """
        Args:
            channels: f, of a block.
            previous, before: channels of the outputs of the two cells before.
            step: the level of this cell minus that of the cell before: 1 down, 0, or -1 up.
        """
        super().__init__()
        self.inputs = [block.inputs for block in blocks]
        self.step = step
        self.previous = project(previous, channels, make_norm)
        self.before = nn.Identity() if before == channels else project(before, channels, make_norm)
        self.operations = nn.ModuleList()
        self.drop = nn.ModuleList()
        for block in blocks:
            strides = [2 if step > 0 and state < 2 else 1 for state in block.inputs]
            pair = [build_operation(name, channels, s, make_norm) for name, s in zip(block.operations, strides)]
            self.operations.append(nn.ModuleList(pair))
            self.drop.append(nn.ModuleList([DropPath(), DropPath()]))

    def forward(self, previous: torch.Tensor, before: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """Map (N, C1, H1, W1) and (N, C2, H2, W2) to (N, B f, H, W).

        Args:
            size: (H, W) of this cell's level.
        """
        if self.step < 0:
            previous = resize(previous, size)
        before = resize(before, tuple(previous.shape[-2:]))
        states = [self.previous(previous), self.before(before)]
        for inputs, pair, drops in zip(self.inputs, self.operations, self.drop):
            branches = [drop(operation(states[i])) for i, operation, drop in zip(inputs, pair, drops)]
            states.append(branches[0] + branches[1])
        return torch.cat(states[2:], dim=1)

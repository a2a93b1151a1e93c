"""A step of a stream as one graph: captured, compiled without a break, and equal to the model's."""

import os

import pytest
import torch
from torch import nn
from video_cells.cell import FrameState


class Step(nn.Module):
    """A model's step on tensors alone: ``forward(image)`` on the first frame, ``forward(image, *state)`` on the others.

    Returns the logits (C, H, W) and what the frame leaves.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, image: torch.Tensor, *state: torch.Tensor) -> tuple[torch.Tensor, ...]:
        logits, left = self.model.step(image, FrameState(*state) if state else None)
        return (logits, *left)


def captured(step, inputs):
    return torch.export.export(step, inputs, strict=False).module()


def compiled(step, inputs):
    return torch.compile(step, fullgraph=True, backend="eager")


SLOW = pytest.mark.skipif("ADET_EXT_SLOW" not in os.environ, reason="takes a minute; ADET_EXT_SLOW=1 runs it")


@pytest.mark.parametrize("way", [captured, pytest.param(compiled, marks=SLOW)])
def test_the_static_network_and_the_cell_are_one_graph_each(way, tiny_model, cell_file, clip):
    step = Step(tiny_model("MODEL.VIDEO.CELL", cell_file())).eval()
    first, second = clip()["frames"][:2]
    with torch.no_grad():
        for inputs in ((first,), (second, *step(first)[1:])):
            torch.testing.assert_close(way(step, inputs)(*inputs), step(*inputs), rtol=1e-5, atol=1e-5)

"""Capture a model as a program of torch.export.

N images, H x W the frame of the network.
"""

from contextlib import nullcontext

import torch
from torch.export import Dim, ExportedProgram

from ..layers.extension import references_only
from .wrapper import TensorModel

__all__ = ["capture", "example", "package_operators"]


def example(batch: int, size: tuple[int, int], *, padded: bool = True) -> tuple[torch.Tensor, ...]:
    """Return what a :class:`TensorModel` takes: gray images (N, 3, H, W) uint8 and, if ``padded``, their sizes."""
    images = torch.full((batch, 3, *size), 128, dtype=torch.uint8)
    return (images, torch.tensor([size] * batch)) if padded else (images,)


def capture(
    model: TensorModel, inputs: tuple[torch.Tensor, ...], *, dynamic: int | None = None, portable: bool = False
) -> ExportedProgram:
    """Capture a model for inputs of these shapes.

    Args:
        dynamic: let batch, height and width be others, the latter two multiples of this; None: fixed.
        portable: in PyTorch's and torchvision's operators, apart from the one that suppresses. Else with this
            package's operators, which are faster, where they are compiled.
    """
    shapes = None
    if dynamic is not None:
        batch = Dim("batch", min=1, max=64)
        height, width = (dynamic * Dim(name, min=2, max=4096 // dynamic) for name in ("rows", "columns"))
        shapes = ({0: batch, 2: height, 3: width}, {0: batch})
    with torch.no_grad(), references_only() if portable else nullcontext():
        return torch.export.export(model, inputs, dynamic_shapes=shapes, strict=False)


def package_operators(program: ExportedProgram) -> list[str]:
    """Return the names of this package's operators that a program calls, sorted."""
    targets = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    return sorted({t.removeprefix("adet_ext.").partition(".")[0] for t in targets if t.startswith("adet_ext.")})

"""Convert checkpoint files."""

import os
from collections.abc import Callable

import torch

from ..d2.checkpoint import read_checkpoint
from ..errors import UserError
from ..utils.files import make_folder, written_beside

__all__ = ["convert_checkpoint"]

State = dict[str, torch.Tensor]


def convert_checkpoint(source: str, target: str, convert: Callable[[State], State], *, overwrite: bool = False) -> int:
    """Write ``convert`` of the weights in ``source`` to ``target``, without training state; return how many tensors.

    Args:
        source: a .pth, .pkl or .safetensors file.
        target: a .pth file.
        convert: from parameters by name to parameters by name; raises ValueError or UserError where it cannot.
        overwrite: whether to replace a file that is at ``target``.

    Raises:
        UserError: the source is missing or cannot be converted, or the target cannot be written.
    """
    if not os.path.isfile(source):
        raise UserError(f"there is no checkpoint {source}; give the path of a file")
    if not target.endswith(".pth"):
        raise UserError(f"TO must end in .pth; got {target}")
    if os.path.exists(target) and not overwrite:
        raise UserError(f"{target} exists; --overwrite replaces it")
    try:
        state = convert({name: torch.as_tensor(value) for name, value in read_checkpoint(source)["model"].items()})
    except (ValueError, UserError) as error:
        raise UserError(f"{source} cannot be converted: {error}") from error
    make_folder(os.path.dirname(target))
    with written_beside(target) as beside:
        torch.save({"model": state}, beside)
    return len(state)

"""Whether somebody looks at the operators that run, and should see the plain ones."""

import torch
from torch.utils._python_dispatch import _get_current_dispatch_mode

__all__ = ["operators_are_observed"]


def operators_are_observed() -> bool:
    """Return whether a graph is made of the operators that run now, or they are counted."""
    return torch.compiler.is_compiling() or _get_current_dispatch_mode() is not None

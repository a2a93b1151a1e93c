"""Count where the host needs a value of a tensor: there it would wait for a GPU."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["HostWaits"]

# Operators whose result is a number for Python, or a tensor whose size depends on values.
_WAIT = {
    "_local_scalar_dense", "item", "is_nonzero", "equal", "nonzero", "masked_select", "unique_dim", "_unique2",
    "unique_consecutive", "bincount", "repeat_interleave", "nms",
}  # fmt: skip


class HostWaits(TorchDispatchMode):
    """Lists the operators called within the context at which the host would wait, in ``found``."""

    def __init__(self):
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name.partition("::")[2]
        by_number = func._overloadname == "self_int"  # of repeat_interleave, to a size that is known
        indices = args[1] if name.startswith("index") and len(args) > 1 and isinstance(args[1], (list, tuple)) else ()
        by_flags = any(x is not None and x.dtype in (torch.bool, torch.uint8) for x in indices)
        if (name in _WAIT and not by_number) or by_flags:
            self.found.append(name)
        return func(*args, **(kwargs or {}))

"""Loading and saving of weights, with errors a user can act upon.

Files are Detectron2's ``.pth`` and ``.pkl`` and ``.safetensors``; nothing that is loaded can run code, and nothing that
is written can destroy what was there (see the door's ``DetectionCheckpointer``).
"""

import os
from typing import Any

from ..d2.checkpoint import DetectionCheckpointer
from ..errors import UserError

__all__ = ["AdetCheckpointer"]

# ImageNet weights published under the classifier's own names, told by their file names; matched by the names' ends.
_BARE_NAMES = ("dla", "lpf")


class AdetCheckpointer(DetectionCheckpointer):
    """The engine's checkpointer, whose failures are :class:`UserError`."""

    def load(self, path: str, checkpointables: list[str] | None = None) -> dict[str, Any]:
        """Load ``path`` into the model and, with them, the named checkpointables; return what is left over.

        Tensors that are missing, superfluous or of another shape are listed in the log and left as they are.

        Raises:
            UserError: the file is missing, cut off, no checkpoint, or would run code.
        """
        name = os.path.basename(path).lower()
        if any(word in name for word in _BARE_NAMES) and name.endswith(".pth") and "?" not in name:
            path += "?matching_heuristics=True"
        try:
            return super().load(path, checkpointables)
        except (OSError, ValueError, AssertionError) as error:
            raise UserError(" ".join(str(error).split()) or f"{path} cannot be loaded") from error

    def save(self, name: str, **kwargs: Any) -> None:
        """Write ``name.pth`` beside its place and rename it.

        Raises:
            UserError: it cannot be written, a full disk for example; earlier checkpoints are untouched.
        """
        try:
            super().save(name, **kwargs)
        except OSError as error:
            raise UserError(" ".join(str(error).split())) from error

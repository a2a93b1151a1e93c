"""Save and load models and training state.

Detectron2's checkpointer unpickles any file and overwrites the file that it replaces. Here it reads and writes as the
embedded one does.
"""

from . import ENGINE
from .checkpoint_files import read_checkpoint

if ENGINE == "detectron2":
    from detectron2.checkpoint import DetectionCheckpointer as _Detectron2Checkpointer
    from detectron2.checkpoint import PeriodicCheckpointer

    from .safe_files import SafeFiles

    class DetectionCheckpointer(SafeFiles, _Detectron2Checkpointer):
        """Detectron2's checkpointer, with files that cannot run code and that survive a crash."""
else:
    from .embedded.checkpoint import DetectionCheckpointer, PeriodicCheckpointer

__all__ = ["DetectionCheckpointer", "PeriodicCheckpointer", "read_checkpoint"]

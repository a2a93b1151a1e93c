"""The checkpointer: fvcore's, with Detectron2's files and addresses, safe against code and crashes."""

from typing import Any

from fvcore.common.checkpoint import Checkpointer, PeriodicCheckpointer  # noqa: F401  (handed on)
from torch import nn

from ..safe_files import SafeFiles
from .checkpoint_names import match_names
from .utils import comm
from .utils.file_io import PathManager


class DetectionCheckpointer(SafeFiles, Checkpointer):
    """Save ``<name>.pth`` files and the tag ``last_checkpoint``; load .pth, .pkl and .safetensors.

    Missing, unexpected and wrongly shaped tensors are listed in the log.
    """

    def __init__(
        self, model: nn.Module, save_dir: str = "", *, save_to_disk: bool | None = None, **checkpointables: Any
    ):
        if save_to_disk is None:
            save_to_disk = comm.is_main_process()
        super().__init__(model, save_dir, save_to_disk=save_to_disk, **checkpointables)
        self.path_manager = PathManager

    def _load_model(self, checkpoint: dict[str, Any]) -> Any:
        if checkpoint.get("matching_heuristics", False):
            self._convert_ndarray_to_tensor(checkpoint["model"])
            checkpoint["model"] = match_names(
                self.model.state_dict(), checkpoint["model"], caffe2=checkpoint.get("__author__") == "Caffe2"
            )
        incompatible = super()._load_model(checkpoint)
        # The config sets them, and older checkpoints lack them.
        own_buffers = dict(self.model.named_buffers(recurse=False))
        for name in ("pixel_mean", "pixel_std"):
            if name in own_buffers and name in incompatible.missing_keys:
                incompatible.missing_keys.remove(name)
        # Older checkpoints hold the anchors, which are constants.
        for name in [name for name in incompatible.unexpected_keys if "anchor_generator.cell_anchors" in name]:
            incompatible.unexpected_keys.remove(name)
        return incompatible

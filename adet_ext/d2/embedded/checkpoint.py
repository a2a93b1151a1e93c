"""The checkpointer: fvcore's, with Detectron2's files and addresses, safe against code and crashes."""

import os
from collections.abc import Callable
from typing import Any, BinaryIO
from urllib.parse import parse_qs

import torch
from fvcore.common.checkpoint import Checkpointer, PeriodicCheckpointer  # noqa: F401  (handed on)
from torch import nn

from .checkpoint_files import read_checkpoint
from .checkpoint_names import match_names
from .utils import comm
from .utils.file_io import PathManager


class SafeFiles:
    """The file side of a checkpointer, over fvcore's or Detectron2's own.

    Every file is written beside its final name and renamed, so that a crash or a full disk leaves the last good one.
    Nothing that is loaded can run code: what tries to raises ``ValueError``. A path may be a URL (http://, https://,
    detectron2://, catalog://), kept in iopath's cache; a query ``?matching_heuristics=True`` matches names by their
    ends, as Detectron2's own .pkl files do by themselves.
    """

    _match_by_ends = False

    def save(self, name: str, **kwargs: Any) -> None:
        """Write model, checkpointables and ``kwargs`` to ``<save_dir>/<name>.pth`` and tag it the last."""
        if not self.save_dir or not self.save_to_disk:
            return
        basename = f"{name}.pth"
        if os.path.basename(basename) != basename:
            raise AssertionError(f"a checkpoint's name is not a path: {name}")
        data = {"model": self.model.state_dict()}
        data.update((key, item.state_dict()) for key, item in self.checkpointables.items())
        data.update(kwargs)
        path = os.path.join(self.save_dir, basename)
        self.logger.info("Saving checkpoint to %s", path)
        _write_beside(path, lambda file: torch.save(data, file))
        self.tag_last_checkpoint(basename)

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Name the file that a resumed run starts from."""
        path = os.path.join(self.save_dir, "last_checkpoint")
        _write_beside(path, lambda file: file.write(last_filename_basename.encode()))

    def load(self, path: str, checkpointables: list[str] | None = None) -> dict[str, Any]:
        """Load a file or URL into the model and the checkpointables (all, or those named); return the rest.

        An empty ``path`` loads nothing. Raises ``FileNotFoundError`` for a file that is not there,
        ``OSError`` for a URL that cannot be fetched, ``ValueError`` for a file that is not a checkpoint or
        would run code.
        """
        if not path:
            return super().load(path, checkpointables)
        path, _, query = path.partition("?") if not os.path.isfile(path) else (path, "", "")
        options = parse_qs(query)
        self._match_by_ends = options.pop("matching_heuristics", ["False"]) == ["True"]
        if options:
            raise ValueError(f"{path}: there is no option {', '.join(options)}; there is matching_heuristics=True")
        return super().load(_local_path(path), checkpointables)

    def _load_file(self, f: str) -> dict[str, Any]:
        checkpoint = read_checkpoint(f)
        if self._match_by_ends:
            checkpoint["matching_heuristics"] = True
        return checkpoint


class DetectionCheckpointer(SafeFiles, Checkpointer):
    """Saves ``<name>.pth`` files and the tag ``last_checkpoint``; loads .pth, .pkl and .safetensors.

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
        # Set from the config anyhow, and older checkpoints lack them.
        own_buffers = dict(self.model.named_buffers(recurse=False))
        for name in ("pixel_mean", "pixel_std"):
            if name in own_buffers and name in incompatible.missing_keys:
                incompatible.missing_keys.remove(name)
        # Older checkpoints hold the anchors, which are constants.
        for name in [name for name in incompatible.unexpected_keys if "anchor_generator.cell_anchors" in name]:
            incompatible.unexpected_keys.remove(name)
        return incompatible


def _write_beside(path: str, write: Callable[[BinaryIO], Any]) -> None:
    # Not "*.pth": a half-written file must not look like a checkpoint.
    beside = path + ".tmp"
    try:
        with open(beside, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except (OSError, RuntimeError) as error:  # torch reports a full disk as a RuntimeError
        if os.path.exists(beside):
            os.remove(beside)
        raise OSError(f"{path} could not be written ({error}); what was there before is untouched") from error


def _local_path(path: str) -> str:
    if "://" not in path:
        if not os.path.isfile(os.path.expanduser(path)):
            raise FileNotFoundError(f"there is no checkpoint {path}")
        return os.path.expanduser(path)
    try:
        return PathManager.get_local_path(path)
    except Exception as error:  # every handler has its own kind
        raise OSError(
            f"{path} could not be fetched ({type(error).__name__}: {error}); download it by hand and give "
            "its path as MODEL.WEIGHTS, or set MODEL.WEIGHTS to '' to start from scratch"
        ) from error

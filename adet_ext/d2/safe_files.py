"""Checkpoint files of both engines, safe against code and crashes."""

import os
from typing import Any
from urllib.parse import parse_qs

import torch

from ..errors import UserError
from ..utils.files import written_beside
from .checkpoint_files import read_checkpoint


class SafeFiles:
    """A mixin for fvcore's or Detectron2's checkpointer, and their first base.

    Every file is written beside its final name and renamed, so that a crash or a full disk leaves the last good one.
    Files cannot run code; those that try raise ``ValueError``. A path may be a URL (http://, https://,
    detectron2://, catalog://), kept in iopath's cache. A query ``?matching_heuristics=True`` matches names by their
    ends, as is always done for Detectron2's .pkl files.
    """

    _match_by_ends = False

    def save(self, name: str, **kwargs: Any) -> None:
        """Write model, checkpointables and ``kwargs`` to ``<save_dir>/<name>.pth`` and tag it as the last.

        Raises:
            UserError: it cannot be written, for example because the disk is full. Earlier files are not changed.
        """
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
        # Not "*.pth", because an unfinished file must not look like a checkpoint.
        with written_beside(path, suffix=".tmp", durable=True) as beside, open(beside, "wb") as file:
            torch.save(data, file)
        self.tag_last_checkpoint(basename)

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Record the file that a resumed run starts from."""
        path = os.path.join(self.save_dir, "last_checkpoint")
        with written_beside(path, suffix=".tmp", durable=True) as beside, open(beside, "w", encoding="utf-8") as file:
            file.write(last_filename_basename)

    def get_checkpoint_file(self) -> str:
        """Return the file that ``last_checkpoint`` names, or "" if there is none.

        Raises:
            ValueError: it does not name a file of this folder.
        """
        tag = os.path.join(self.save_dir, "last_checkpoint")
        try:
            with open(tag, encoding="utf-8", errors="replace") as file:
                name = file.read(4096).strip()
        except OSError:
            return ""
        path = os.path.join(self.save_dir, name)
        if not name or "\0" in name or not os.path.isfile(path):
            raise ValueError(
                f"{tag} must name a checkpoint of its folder; got {name!r:.100}. Write the name of another one "
                "into it, or start without --resume"
            )
        return path

    def load(self, path: str, checkpointables: list[str] | None = None) -> dict[str, Any]:
        """Load a file or URL into the model and the checkpointables (all, or those named); return the rest.

        An empty ``path`` loads nothing.

        Raises:
            FileNotFoundError: there is no such file.
            OSError: a URL cannot be fetched.
            ValueError: the file is not a checkpoint, does not fit, or would run code.
            UserError: a checkpointable refuses its part.
        """
        if not path:
            return super().load(path, checkpointables)
        path, _, query = path.partition("?") if not os.path.isfile(path) else (path, "", "")
        options = parse_qs(query)
        self._match_by_ends = options.pop("matching_heuristics", ["False"]) == ["True"]
        if options:
            raise ValueError(f"{path}: there is no option {', '.join(options)}; there is matching_heuristics=True")
        local = self._local_path(path)
        try:
            return super().load(local, checkpointables)
        except OSError:
            raise
        except UserError as error:
            if path in str(error) or self.save_dir and self.save_dir in str(error):
                raise
            raise UserError(f"{path}: {error}") from error
        except Exception as error:  # parts of the wrong type raise errors of any type
            reason = " ".join(str(error).split())
            if path in reason or local in reason:
                raise
            raise ValueError(f"{path} cannot be loaded ({type(error).__name__}: {reason:.500})") from error

    def _load_file(self, f: str) -> dict[str, Any]:
        checkpoint = read_checkpoint(f)
        model = checkpoint["model"]
        if any("_orig_mod." in name for name in model):  # torch.compile adds a prefix to names
            checkpoint["model"] = {name.replace("_orig_mod.", ""): value for name, value in model.items()}
        if self._match_by_ends:
            checkpoint["matching_heuristics"] = True
        return checkpoint

    def _local_path(self, path: str) -> str:
        if "://" not in path:
            if not os.path.isfile(os.path.expanduser(path)):
                raise FileNotFoundError(f"there is no checkpoint {path}")
            return os.path.expanduser(path)
        try:
            return self.path_manager.get_local_path(path)
        except UserError:
            raise
        except Exception as error:  # handlers raise errors of different types
            raise OSError(
                f"{path} could not be fetched ({type(error).__name__}: {error}); download it by hand and give "
                "its path as MODEL.WEIGHTS, or set MODEL.WEIGHTS to '' to start from scratch"
            ) from error

"""What a cached result depends on, as hashes that can be compared part by part."""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from ..errors import UserError

__all__ = ["fingerprint"]

_CHUNK = 1 << 20


def fingerprint(
    weights: nn.Module | Mapping[str, Any],
    files: Iterable[str | os.PathLike] = (),
    settings: Any = None,
    by_content: bool = False,
) -> dict[str, str]:
    """Return hashes of everything that features of images depend on.

    Args:
        weights: the network, or its state dict. Names, dtypes, shapes and values count.
        files: the images, in their order. Their names, sizes and times of change count; with ``by_content``, which
            reads all of them, the last part of the name and the content.
        settings: whatever else counts, ready for JSON: transforms, sizes, the seed of generated images, and what the
            network's structure says beside its weights.

    Returns:
        {"weights": ..., "files": ..., "settings": ...}, SHA-256 in hexadecimal digits. More keys may be added.

    Raises:
        UserError: a file that cannot be read.
    """
    state = weights.state_dict() if isinstance(weights, nn.Module) else weights
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    return {"weights": _of_weights(state), "files": _of_files(files, by_content), "settings": digest.hexdigest()}


def _of_weights(state: Mapping[str, Any]) -> str:
    digest = hashlib.sha256()
    for name in sorted(state):
        value = state[name]
        if isinstance(value, torch.Tensor):
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
            digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        else:
            digest.update(f"{name} {value!r}\n".encode())
    return digest.hexdigest()


def _of_files(files: Iterable[str | os.PathLike], by_content: bool) -> str:
    digest = hashlib.sha256()
    for file in map(os.fspath, files):
        try:
            if by_content:
                line = f"{os.path.basename(file)} {_of_content(file)}\n"
            else:
                stat = os.stat(file)
                line = f"{file} {stat.st_size} {stat.st_mtime_ns}\n"
        except OSError as error:
            raise UserError(f"{file}: cannot be read: {error.strerror or error}. Correct the data set.") from error
        digest.update(line.encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _of_content(file: str) -> str:
    digest = hashlib.sha256()
    with open(file, "rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()

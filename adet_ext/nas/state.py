"""The state of a sampler beside its journal, so that going on does not have to replay the whole journal."""

import io
import json
import logging
import os
from typing import Any

from ..utils.files import written_beside

__all__ = ["load_state", "save_state"]

logger = logging.getLogger(__name__)


def save_state(path: str, state: dict) -> None:
    """Write ``state`` beside ``path``, flush it to the disk and rename it.

    JSON where JSON gives the state back as it is, else the format of torch: a search without tensors needs no torch.
    """
    with written_beside(path, suffix=".part", durable=True) as beside, open(beside, "wb") as file:
        text = _json(state)
        if text is not None:
            file.write(text.encode())
        else:
            import torch

            torch.save(state, file)
        file.flush()


def load_state(path: str) -> dict | None:
    """Return what :func:`save_state` wrote; None where there is nothing, or nothing that can be read. Runs no code."""
    if not os.path.isfile(path):
        return None
    try:
        with open(path, "rb") as file:
            data = file.read()
        if data[:1] == b"{":
            return json.loads(data)
        import torch

        return torch.load(io.BytesIO(data), weights_only=True, map_location="cpu")
    except Exception as error:  # torch and pickle have their own; the journal has all that is needed
        logger.warning("%s: cannot be read (%s); the sampler learns from the journal anew", path, error)
        return None


def _json(state: dict) -> str | None:
    try:
        text = json.dumps(state, allow_nan=False)
        return text if _same(json.loads(text), state) else None
    except (TypeError, ValueError):
        return None


def _same(a: Any, b: Any) -> bool:
    """Whether two values are equal in their types too: JSON makes lists of tuples and words of numbers as keys."""
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(_same, a, b))
    return a == b

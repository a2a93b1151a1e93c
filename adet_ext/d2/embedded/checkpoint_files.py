"""Reading checkpoint files of three kinds, none of which can run code."""

import pickle
from collections import OrderedDict
from typing import Any

import numpy as np
import torch

try:
    from numpy._core import multiarray
except ImportError:  # numpy before 2
    from numpy.core import multiarray


def read_checkpoint(path: str) -> dict[str, Any]:
    """Return the content of a .pkl, .safetensors or torch file as a dictionary with a key "model".

    "model" maps names to tensors or arrays; .pkl files of Detectron2's and Caffe2's model zoos bring
    "matching_heuristics" and "__author__" besides. Raises ``ValueError`` for any other file.
    """
    if path.endswith(".pkl"):
        content = _read_pickle(path)
    elif path.endswith(".safetensors"):
        content = {"model": _read_safetensors(path)}
    else:
        content = _read_torch(path)
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}; a checkpoint is a dictionary of tensors")
    if not path.endswith(".pkl"):
        return content if "model" in content else {"model": content}
    if "model" in content and "__author__" in content:
        return content
    # Caffe2: detectors keep their tensors under "blobs", classifiers do not.
    blobs = content.get("blobs", content)
    weights = {name: value for name, value in blobs.items() if not name.endswith("_momentum")}
    return {"model": weights, "__author__": "Caffe2", "matching_heuristics": True}


def _refusal(path: str, wanted: str) -> ValueError:
    return ValueError(
        f"{path} is refused: it asks for {wanted} while loading, and a checkpoint that is more than tensors, "
        "arrays and plain values could run any code. Save it again as tensors only, where it can be trusted"
    )


def _unreadable(path: str, error: Exception) -> ValueError:
    reason = (str(error).strip().splitlines() or ["no more data"])[0]
    return ValueError(f"{path} cannot be read as a checkpoint, it may be cut off: {type(error).__name__}: {reason}")


def _latin1(text: str, encoding: str) -> bytes:
    # How Python 2's strings, and so all arrays of that time, travel through a pickle.
    if encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"unexpected encoding {encoding}")
    return text.encode("latin1")


_NUMPY = {
    (module, name): getattr(multiarray, name)
    for module in ("numpy.core.multiarray", "numpy._core.multiarray")
    for name in ("_reconstruct", "scalar")
}
_PICKLED = {
    **_NUMPY,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("collections", "OrderedDict"): OrderedDict,
    ("_codecs", "encode"): _latin1,
}


class _Refused(Exception):
    pass


class _ArrayUnpickler(pickle.Unpickler):
    """Builds numpy arrays and plain containers, and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _PICKLED:
            raise _Refused(f"{module}.{name}")
        return _PICKLED[module, name]


def _read_pickle(path: str) -> Any:
    with open(path, "rb") as file:
        try:
            return _ArrayUnpickler(file, encoding="latin1").load()
        except _Refused as refused:
            raise _refusal(path, str(refused)) from None
        except Exception as error:  # garbage makes the unpickler raise almost anything
            raise _unreadable(path, error) from error


def _read_safetensors(path: str) -> dict[str, torch.Tensor]:
    try:
        from safetensors.torch import load_file
    except ImportError as error:
        raise ImportError(f"{path} needs the package safetensors: pip install safetensors") from error
    try:
        return load_file(path)
    except Exception as error:  # the library's own exception type is not public
        raise _unreadable(path, error) from error


def _read_torch(path: str) -> Any:
    # Training state holds numpy numbers (best metrics), under either of numpy's two names for their maker.
    numbers = [(function, ".".join(where)) for where, function in _NUMPY.items()]
    numbers += [np.ndarray, np.dtype, *{type(np.dtype(kind)) for kind in "?bBhHiIlLqQefd"}]
    try:
        with torch.serialization.safe_globals(numbers):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        message = str(error)
        if "GLOBAL " in message or "Unsupported" in message:
            wanted = message.partition("GLOBAL ")[2].split(" ")[0] or "something"
            raise _refusal(path, wanted) from error
        raise _unreadable(path, error) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise _unreadable(path, error) from error

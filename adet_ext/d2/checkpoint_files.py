"""Read checkpoint files of three kinds, none of which can run code."""

import json
import os
import pickle
import pickletools
import zipfile
from collections import OrderedDict
from typing import Any, BinaryIO

import numpy as np
import torch

from .pickled_arrays import NUMPY, as_arrays, encode_latin1


def read_checkpoint(path: str) -> dict[str, Any]:
    """Return the content of a .pkl, .safetensors or torch file as a dictionary with a key "model".

    "model" maps names to dense tensors or arrays of numbers. .safetensors files whose metadata name the classes, a list
    in JSON, also have "classes"; .pkl files of Detectron2's and Caffe2's model zoos also
    have "matching_heuristics" and "__author__".

    Raises:
        ValueError: any other file; the message names it.
    """
    if path.endswith(".pkl"):
        content = _as_dict(_read_pickle(path), path, "it")
        if "model" not in content or "__author__" not in content:
            # Caffe2's detectors have their tensors under "blobs", its classifiers do not.
            blobs = _as_dict(content.get("blobs", content), path, "'blobs'")
            weights = {name: value for name, value in blobs.items() if not str(name).endswith("_momentum")}
            content = {"model": weights, "__author__": "Caffe2", "matching_heuristics": True}
    elif path.endswith(".safetensors"):
        content = _read_safetensors(path)
    else:
        content = _as_dict(_read_torch(path), path, "it")
        content = content if "model" in content else {"model": content}
    content["model"] = _checked_model(content["model"], path)
    return content


def _as_dict(value: Any, path: str, what: str) -> dict:
    if not isinstance(value, dict):
        raise ValueError(f"{path} is not a checkpoint: {what} must be a dictionary; got {type(value).__name__}")
    return value


def _checked_model(model: Any, path: str) -> OrderedDict[str, Any]:
    """Return the tensors of a model by name, and the versions of its modules if the file has them.

    Raises:
        ValueError: a name is not a text, or a value is not a dense tensor or an array of numbers.
    """
    checked = OrderedDict()
    for name, value in _as_dict(model, path, "'model'").items():
        if not isinstance(name, str):
            raise ValueError(f"{path} is not a checkpoint: a tensor's name must be a text; got {name!r:.80}")
        kind = _unusable(value)
        if kind:
            hint = f". The file's tensors may be below {name!r}: save those alone" if isinstance(value, dict) else ""
            raise ValueError(
                f"{path} is not a checkpoint: {name!r:.80} must be a dense tensor of numbers; got {kind}{hint}"
            )
        checked[name] = value
    versions = getattr(model, "_metadata", None)
    if isinstance(versions, dict) and all(isinstance(x, dict) for x in versions.values()):
        checked._metadata = versions
    return checked


def _unusable(value: Any) -> str:
    """Return why a value cannot be a weight; "" if it can."""
    if isinstance(value, np.ndarray):
        return "" if value.dtype.kind in "biuf" else f"an array of {value.dtype}"
    if not isinstance(value, torch.Tensor):
        return type(value).__name__
    if value.is_meta or value.is_nested or value.is_quantized or value.layout != torch.strided:
        return f"a tensor without plain values ({value.device}, {value.layout}, {value.dtype})"
    return "a complex tensor" if value.is_complex() else ""


def _refusal(path: str, wanted: str) -> ValueError:
    return ValueError(
        f"{path} is refused: it asks for {wanted} while loading, and a file that holds more than tensors, arrays and "
        "plain values can run any code. If you trust it, load it elsewhere and save its tensors alone"
    )


def _unreadable(path: str, error: Exception) -> ValueError:
    reason = (str(error).strip().splitlines() or ["no more data"])[0][:300]
    return ValueError(f"{path} cannot be read as a checkpoint; it may be cut off ({type(error).__name__}: {reason})")


_PICKLED = {**NUMPY, ("collections", "OrderedDict"): OrderedDict, ("_codecs", "encode"): encode_latin1}


class _Refused(Exception):
    pass


class _ArrayUnpickler(pickle.Unpickler):
    """Unpickle numpy arrays and plain containers, and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _PICKLED:
            raise _Refused(f"{module}.{name}")
        return _PICKLED[module, name]


def _check_pickle(file: BinaryIO, size: int) -> None:
    """Refuse memo indices that no file of this size can need, because the unpickler allocates all of them."""
    for opcode, argument, _ in pickletools.genops(file):
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and argument > size:
            raise pickle.UnpicklingError(f"it asks for memory place {argument} in a file of {size} bytes")
    file.seek(0)


def _read_pickle(path: str) -> Any:
    try:
        with open(path, "rb") as file:
            _check_pickle(file, os.path.getsize(path))
            return as_arrays(_ArrayUnpickler(file, encoding="latin1").load())
    except _Refused as refused:
        raise _refusal(path, str(refused)) from None
    except Exception as error:  # garbage makes the unpickler raise almost anything
        raise _unreadable(path, error) from error


def _read_safetensors(path: str) -> dict[str, Any]:
    try:
        from safetensors import safe_open
    except ImportError as error:
        raise ValueError(f"{path} needs the package safetensors. Install it: pip install safetensors") from error
    try:
        with safe_open(path, framework="pt") as file:
            content = {"model": {name: file.get_tensor(name) for name in file.keys()}}
            classes = (file.metadata() or {}).get("classes")
        return content if classes is None else {**content, "classes": json.loads(classes)}
    except Exception as error:  # the library's own exception type is not public
        raise _unreadable(path, error) from error


def _check_archive(path: str) -> None:
    """Refuse records that are compressed or overlap, because their sizes may exceed the file's."""
    with zipfile.ZipFile(path) as archive:
        records = archive.infolist()
    if sum(record.file_size for record in records) > os.path.getsize(path):
        raise ValueError("it declares more data than it holds")


def _read_torch(path: str) -> Any:
    # Training state has numpy numbers (best metrics), which numpy pickles under one of two names.
    numbers = [(function, ".".join(where)) for where, function in NUMPY.items()]
    try:
        if zipfile.is_zipfile(path):
            _check_archive(path)
        with torch.serialization.safe_globals(numbers):
            return as_arrays(torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:  # garbage makes torch raise almost anything
        # Otherwise the next file would fail to load too.
        getattr(torch._utils, "_sparse_tensors_to_validate", []).clear()
        message = str(error)
        if isinstance(error, pickle.UnpicklingError) and ("GLOBAL " in message or "Unsupported" in message):
            wanted = message.partition("GLOBAL ")[2].split(" ")[0] or "something"
            raise _refusal(path, wanted) from error
        raise _unreadable(path, error) from error

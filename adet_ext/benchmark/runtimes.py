"""One model with the same weights in several runtimes: what each of them opens."""

import os
from collections.abc import Sequence

import numpy as np
import torch

from ..config import load_config
from ..d2.modeling import build_model
from ..engine.checkpoint import AdetCheckpointer
from ..errors import UserError
from ..export.files import Options, export_model
from ..export.onnx_file import need
from ..export.openvino_file import OPENVINO, OPENVINO_BF16
from .calibrate import calibrate
from .rivals import COMPILED

__all__ = ["RUNS", "check_runs", "prepare_runs"]

_FILES = {"pt2": ("pt2", "float32"), "onnxruntime": ("onnx", "float32"), "int8": ("onnx", "int8")}
# What goes before the path of a file, and the run whose file it is.
_OPENVINO = {
    "openvino": (OPENVINO, "onnxruntime"),
    "openvino-bf16": (OPENVINO_BF16, "onnxruntime"),
    "openvino-int8": (OPENVINO, "int8"),
}
RUNS = ("eager", "compiled", *_FILES, *_OPENVINO)


def check_runs(runs: Sequence[str]) -> None:
    """Raise UserError where a run is unknown or its packages are missing."""
    unknown = [name for name in runs if name not in RUNS]
    if unknown:
        raise UserError(f"--runs must be some of {', '.join(RUNS)}; got {', '.join(unknown)}")
    if {"onnxruntime", "int8", *_OPENVINO} & set(runs):
        need("onnx", "onnxscript", "onnxruntime")
    if set(_OPENVINO) & set(runs):
        need("openvino")


def prepare_runs(
    config: str,
    opts: Sequence[str],
    runs: Sequence[str],
    inputs: Sequence[dict],
    detections: tuple[int, int],
    folder: str | os.PathLike,
) -> tuple[dict[str, str], str]:
    """Write the weights of a model, and the files that runs need, to ``folder``; what is there already is kept.

    Args:
        config, opts: of the model. Weights are random and calibrated unless ``opts`` names MODEL.WEIGHTS.
        inputs: of the model, of one size (h, w). Random weights find objects in them, and int8 ranges are theirs.
        detections: the least and most objects an image; (0, 0): weights as they are.

    Returns:
        what each run opens, in the place of a config, and the path of the weights for those that open the config.
    """
    weights = os.path.join(folder, "weights.pth")
    names = dict.fromkeys(runs, config)
    if "compiled" in names:
        names["compiled"] = COMPILED + config
    paths = {name: os.path.join(folder, f"{precision}.{kind}") for name, (kind, precision) in _FILES.items()}
    opened = {name: ("", name) for name in _FILES} | _OPENVINO
    opened = {name: opened[name] for name in runs if name in opened}
    names.update((name, prefix + paths[file]) for name, (prefix, file) in opened.items())
    wanted = dict.fromkeys(file for _, file in opened.values())
    missing = [name for name in wanted if not os.path.isfile(paths[name])]
    if not missing and os.path.isfile(weights):
        return names, weights
    cfg = load_config(config, [*opts, "MODEL.DEVICE", "cpu"])
    model = build_model(cfg).eval()
    if os.path.isfile(weights):
        AdetCheckpointer(model).load(weights)
    elif "MODEL.WEIGHTS" in opts:
        AdetCheckpointer(model).load(cfg.MODEL.WEIGHTS)
    elif detections[1] > 0:
        calibrate(model, list(inputs), *detections)
    os.makedirs(folder, exist_ok=True)
    torch.save({"model": model.state_dict()}, weights)
    step = max(model.backbone.size_divisibility, 1)
    frame = tuple(-(-length // step) * step for length in inputs[0]["image"].shape[1:])
    pictures = [np.ascontiguousarray(x["image"].permute(1, 2, 0).numpy()) for x in inputs]
    for name in missing:
        kind, precision = _FILES[name]
        export_model(cfg, model, paths[name], Options(kind, frame, precision=precision), pictures=pictures)
    return names, weights

"""Export a model to a file, and open such a file in the place of a config.

H x W the frame of the network.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from ..config.errors import check_overrides
from ..d2.config import CfgNode
from ..errors import UserError, one_line
from ..modeling.one_stage import OneStageDetector
from ..utils.files import make_folder, written_beside
from .aoti_file import AOTI, AotiRunner, is_aoti, write_aoti
from .capture import capture, example, package_operators
from .card import Card
from .exported import ExportedModel, Runner
from .half import halve_weights
from .int8 import quantize
from .onnx_file import OnnxRunner, need, write_onnx
from .openvino_file import OPENVINO, OPENVINO_BF16, OpenVinoRunner
from .panoptic import map_stride
from .pt2_file import Pt2Runner, write_pt2
from .wrapper import TensorModel

__all__ = [
    "FORMATS", "PRECISIONS", "Options", "check_options", "export_model", "exported_config", "file_of",
    "is_exported", "open_exported", "open_runner",
]  # fmt: skip

PRECISIONS = ("float32", "float16", "int8")
FORMATS = {"onnx": ".onnx", "pt2": ".pt2", "aoti": ".pt2"}


@dataclass(frozen=True)
class Options:
    """What an exported file is to be.

    Attributes:
        format: a key of :data:`FORMATS`.
        size: (H, W), or what the graph is made with where it is dynamic.
        batch: images in one pass.
        dynamic: let batch and frame be others.
        source: (height, width) of the images, where the graph is to resize them.
        paste: masks at the size of the images.
        precision: "float32"; for ONNX also "float16", which weights are stored in, or "int8", which convolutions
            compute in.
        portable: no operators of this package, but for the one that suppresses.
    """

    format: str
    size: tuple[int, int]
    batch: int = 1
    dynamic: bool = False
    source: tuple[int, int] | None = None
    paste: bool = False
    portable: bool = False
    precision: str = "float32"


def check_options(options: Options, path: str, overwrite: bool = False) -> None:
    """Raise UserError for what is wrong without looking at a model."""
    if options.format not in FORMATS:
        raise UserError(f"--format must be {' or '.join(FORMATS)}; got {options.format}")
    suffix = FORMATS[options.format]
    if not path.lower().endswith(suffix):
        raise UserError(f"--output must end in {suffix} for --format {options.format}; got {path}")
    if os.path.exists(path) and not overwrite:
        raise UserError(f"{path} exists; choose another --output, or add --overwrite")
    if options.format == "onnx":
        need("onnx", "onnxscript")
    if options.precision not in PRECISIONS:
        raise UserError(f"--precision must be {', '.join(PRECISIONS)}; got {options.precision}")
    if options.precision != "float32" and options.format != "onnx":
        raise UserError(f"--precision {options.precision} must come with --format onnx; got {options.format}")
    if options.batch < 1:
        raise UserError(f"--batch must be 1 or more; got {options.batch}")
    if options.dynamic and options.source:
        raise UserError("--dynamic and --source must not come together: a graph that resizes has fixed sizes")


def export_model(
    cfg: CfgNode,
    model: nn.Module,
    path: str,
    options: Options,
    classes: list[str] | None = None,
    overwrite: bool = False,
    pictures: Sequence[np.ndarray] = (),
) -> Card:
    """Write a model with its card to ``path``; return the card.

    Args:
        cfg: what the model was built from.
        model: with its weights. It is put in evaluation mode and moved to the CPU.
        classes: the names of its classes, or None.
        pictures: (h, w, 3) uint8 in the channel order of the model, that show the ranges of activations for "int8".

    Raises:
        UserError: the model, the size or an option cannot be exported to this format. Nothing was written.
    """
    check_options(options, path, overwrite)
    step = _check_model(cfg, model, options)
    if options.precision == "int8" and not len(pictures):
        raise UserError("--precision int8 must have pictures to learn the ranges of activations from; add --calibrate")
    model = model.eval().cpu()
    resize_to = _fitted(cfg, options) if options.source else None
    wrapped = TensorModel(model, resize_to=resize_to, frame=options.size, paste=options.paste).eval()
    # A dimension that is 1 in the example would be taken for fixed.
    batch = max(options.batch, 2) if options.dynamic else options.batch
    inputs = example(batch, options.source or options.size, padded=not options.source)
    portable = options.portable or options.format == "onnx"
    try:
        with torch.no_grad():
            outputs = list(wrapped(*inputs))
        program = capture(wrapped, inputs, dynamic=step if options.dynamic else None, portable=portable)
    except (RuntimeError, ValueError, torch._dynamo.exc.UserError) as error:
        raise UserError(f"{type(model).__name__} cannot be captured at this size: {one_line(error)}") from error
    card = _card(cfg, model, options, step, outputs, classes, package_operators(program))
    make_folder(os.path.dirname(os.path.abspath(path)))
    write = {"onnx": write_onnx, "pt2": write_pt2, "aoti": write_aoti}[options.format]
    with written_beside(path) as beside:
        write(program, card, beside)
        if options.precision == "float16":
            halve_weights(beside)
        if options.precision == "int8":
            exported = ExportedModel(OnnxRunner(beside), path)
            tensors = [torch.from_numpy(picture).permute(2, 0, 1) for picture in pictures]
            quantize(beside, (exported.packed([tensor]) for tensor in tensors))
    return card


def _check_model(cfg: CfgNode, model: nn.Module, options: Options) -> int:
    """Return what frames must be multiples of."""
    if not isinstance(model, OneStageDetector):
        raise UserError(
            "MODEL.META_ARCHITECTURE must be one of this package's detectors to be exported; got "
            f"{type(model).__name__}"
        )
    if cfg.INPUT.FORMAT not in ("BGR", "RGB"):
        raise UserError(f"INPUT.FORMAT must be BGR or RGB to be exported; got {cfg.INPUT.FORMAT}")
    if options.source and map_stride(model) is not None:
        raise UserError("--source must not be given for a panoptic model; resize the images before the graph")
    step = max(model.backbone.size_divisibility, 1)
    near = tuple(-(-length // step) * step for length in options.size)
    if near != tuple(options.size) or min(options.size) < 2 * step:
        near = tuple(max(length, 2 * step) for length in near)
        raise UserError(
            f"--size must be multiples of {step}, two or more; got {options.size[0]} {options.size[1]}. The next are "
            f"{near[0]} {near[1]}"
        )
    return step


def _fitted(cfg: CfgNode, options: Options) -> tuple[int, int]:
    """Return the size that the graph resizes images of ``options.source`` to."""
    scale = min(options.size[i] / options.source[i] for i in (0, 1))
    return tuple(max(1, min(round(options.source[i] * scale), options.size[i])) for i in (0, 1))


def _card(cfg, model, options: Options, step: int, outputs, classes, operators) -> Card:
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.DEVICE, cfg.MODEL.WEIGHTS = "cpu", ""
    return Card(
        architecture=type(model).__name__,
        config=cfg.dump(),
        classes=classes,
        num_classes=model.proposal_generator.num_classes,
        frame=tuple(options.size),
        dynamic=options.dynamic,
        batch=options.batch,
        divisibility=step,
        channels=cfg.INPUT.FORMAT,
        mean=model.pixel_mean.flatten().tolist(),
        std=model.pixel_std.flatten().tolist(),
        source=options.source,
        map_stride=map_stride(model),
        outputs=outputs,
        operators=operators,
        pasted=options.paste,
        precision=options.precision,
    )


def is_exported(path: str | None) -> bool:
    """Return whether a name is that of an exported file, and not of a config."""
    return bool(path) and path.lower().endswith(tuple(FORMATS.values()))


def file_of(path: str) -> str:
    """Return the path of an exported file without what may say before it what runs it."""
    for prefix in (OPENVINO, OPENVINO_BF16, AOTI):
        path = path.removeprefix(prefix)
    return path


def open_runner(path: str) -> Runner:
    """Open an exported file by its path, before which "openvino:", "openvino-bf16:" and "aoti:" may say what runs it.

    ONNX files are run by onnxruntime unless it is OpenVINO, in float32 or bfloat16. "aoti:" is for machine code.

    Raises:
        UserError: it is missing, damaged, or this package did not write it; or it is machine code, and its name does
            not start with "aoti:".
    """
    given, path = path, file_of(path)
    if not os.path.isfile(path):
        raise UserError(f"{path} must be an exported file; there is none of this name")
    if given.startswith((OPENVINO, OPENVINO_BF16)):
        return OpenVinoRunner(path, bf16=given.startswith(OPENVINO_BF16))
    if given.startswith(AOTI):
        return AotiRunner(path)
    if is_aoti(path):
        raise UserError(f"{path} is machine code, which runs as soon as it is opened; say {AOTI}{path} if you trust it")
    return OnnxRunner(path) if path.lower().endswith(".onnx") else Pt2Runner(path)


def exported_config(model: ExportedModel, opts: Sequence[str] = ()) -> CfgNode:
    """Return the config to predict and evaluate with, for images as they are: the model resizes them itself.

    Raises:
        UserError: ``opts`` (KEY VALUE ...) change what is fixed in the file.
    """
    check_overrides(model.cfg, opts)
    cfg = model.cfg.clone()
    for key, value in zip(opts[0::2], opts[1::2]):
        if key.startswith(("MODEL.", "INPUT.")) and not key.startswith("MODEL.PANOPTIC_FPN.COMBINE."):
            raise UserError(f"{key} is fixed in the exported file {model.path}; export it again with {key} {value}")
        cfg.merge_from_list([key, value])
    cfg.INPUT.MIN_SIZE_TEST = 0
    return cfg


def open_exported(path: str) -> ExportedModel:
    """Open an exported file as a model; see :func:`open_runner`."""
    runner = open_runner(path)
    if runner.card.pasted:
        raise UserError(f"{path} was exported with --paste, and its masks have no boxes any more; export without it")
    return ExportedModel(runner, path)

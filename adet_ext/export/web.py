"""A folder that a static server shows: a page that segments pictures and the camera in the browser.

H x W the frame of the network.
"""

import dataclasses
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import nn

from ..d2.config import CfgNode
from ..errors import UserError
from ..utils.files import make_folder, written_beside
from .card import Card
from .files import Options, check_options, export_model

__all__ = ["check_web", "export_web"]

_PAGE = Path(__file__).with_name("page")
_MODEL = "model.onnx"
# The runtime on the CPU, of the npm package's folder dist: its JavaScript, and the WebAssembly that this loads.
_RUNTIME = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")


def check_web(options: Options, folder: str, library: str | None, overwrite: bool = False) -> list[Path]:
    """Return the paths of onnxruntime-web's files.

    Args:
        library: the unpacked npm package onnxruntime-web, or its folder ``dist``.

    Raises:
        UserError: a file is missing, the folder has files already, or an option is not for pages.
    """
    if not library:
        raise UserError(
            "--format web must have --onnxruntime-web DIR, the unpacked npm package: npm pack onnxruntime-web && "
            "tar xzf onnxruntime-web-*.tgz, then --onnxruntime-web package"
        )
    dist = Path(library, "dist")
    dist = dist if dist.is_dir() else Path(library)
    missing = [name for name in _RUNTIME if not (dist / name).is_file()]
    if missing:
        raise UserError(f"{library} must be the unpacked npm package onnxruntime-web; it has no {', '.join(missing)}")
    for name in ("dynamic", "source", "paste", "portable"):
        if getattr(options, name):
            raise UserError(f"--{name} must not be given with --format web: the page resizes and pastes itself")
    if options.batch != 1:
        raise UserError(f"--batch must be 1 with --format web; got {options.batch}")
    if os.path.isdir(folder) and os.listdir(folder) and not overwrite:
        raise UserError(f"{folder} has files already; choose another --output, or add --overwrite")
    if os.path.exists(folder) and not os.path.isdir(folder):
        raise UserError(f"--output must be a folder for --format web; {folder} is a file")
    check_options(dataclasses.replace(options, format="onnx"), os.path.join(folder, _MODEL), overwrite=True)
    return [dist / name for name in _RUNTIME]


def export_web(
    cfg: CfgNode,
    model: nn.Module,
    folder: str,
    options: Options,
    library: str,
    classes: list[str] | None = None,
    overwrite: bool = False,
    pictures: Sequence[np.ndarray] = (),
) -> Card:
    """Write the page, the model and the runtime to ``folder``; return the model's card.

    Args:
        library: see :func:`check_web`.
        cfg, model, options, classes, overwrite, pictures: see :func:`~.files.export_model`.

    Raises:
        UserError: see :func:`check_web` and :func:`~.files.export_model`.
    """
    runtime = check_web(options, folder, library, overwrite)
    as_onnx = dataclasses.replace(options, format="onnx")
    card = export_model(cfg, model, os.path.join(folder, _MODEL), as_onnx, classes, True, pictures)
    make_folder(os.path.join(folder, "onnxruntime"))
    copies = [(path, os.path.join(folder, path.name)) for path in sorted(_PAGE.iterdir())]
    copies += [(path, os.path.join(folder, "onnxruntime", path.name)) for path in runtime]
    for source, target in copies:
        with written_beside(target) as beside:
            shutil.copyfile(source, beside)
    with written_beside(os.path.join(folder, "model.json")) as beside:
        Path(beside).write_text(json.dumps(_for_the_page(card, cfg)), encoding="utf-8")
    return card


def _for_the_page(card: Card, cfg: CfgNode) -> dict:
    """Return what the page needs of the card, which is in the model too, where the page cannot read it."""
    names = ("architecture", "classes", "frame", "channels", "outputs", "version")
    values = {name: getattr(card, name) for name in names}
    return {**values, "min_size": cfg.INPUT.MIN_SIZE_TEST, "max_size": cfg.INPUT.MAX_SIZE_TEST}

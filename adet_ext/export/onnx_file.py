"""ONNX files: written with standard operators alone, run by onnxruntime on the CPU.

N images, H x W the frame of the network.
"""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

import torch
from torch.export import ExportedProgram

from ..errors import UserError, one_line
from .card import KEY, Card
from .exported import Runner

__all__ = ["OPSET", "OnnxRunner", "need", "write_onnx"]

# The newest that onnxruntime's CPU provider has RoIAlign for; deformable convolution is there from 19 on.
OPSET = 21


def need(*packages: str) -> None:
    """Raise UserError unless these packages are installed."""
    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        raise UserError(f"{' and '.join(missing)} must be installed for ONNX files; run pip install 'adet-ext[export]'")


def write_onnx(program: ExportedProgram, card: Card, path: str) -> None:
    """Translate a portable program and write it to ``path``.

    Raises:
        UserError: it has an operator that ONNX does not have.
    """
    from .onnx_operators import translations

    names = ["images"] if card.source else ["images", "sizes"]
    try:
        with _quiet():
            translated = torch.onnx.export(
                program,
                dynamo=True,
                custom_translation_table=translations(card.num_classes),
                input_names=names,
                output_names=card.outputs,
                opset_version=OPSET,
                verbose=False,
            )
    except torch.onnx.errors.OnnxExporterError as error:
        cause = one_line(error.__cause__ or error)
        raise UserError(f"the model cannot be an ONNX file: {cause}. Use --format pt2") from error
    graph = translated.model
    others = sorted({node.domain for node in graph.graph.all_nodes() if node.domain not in ("", "ai.onnx")})
    if others or graph.functions:
        raise UserError(f"the model needs operators of {', '.join(others)}, which ONNX does not have; use --format pt2")
    graph.metadata_props[KEY] = card.dumps()
    graph.producer_name, graph.producer_version = KEY, card.version
    for value in graph.graph:
        value.metadata_props.clear()  # stack traces with the paths of this machine
    translated.save(path)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's remarks on its own work out of the log."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            for logger in loggers:
                logger.setLevel(logging.ERROR)
            yield
        finally:
            for logger, level in zip(loggers, levels):
                logger.setLevel(level)


class OnnxRunner(Runner):
    """A file open in onnxruntime, with as many threads as torch has."""

    def __init__(self, path: str):
        """
        Raises:
            UserError: onnxruntime is missing, or the file is damaged or not one of ours.
        """
        need("onnxruntime")
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = torch.get_num_threads()
        try:
            self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's exceptions have no common base
            raise UserError(f"{path} cannot be opened: {one_line(error)}") from error
        self.card = Card.loads(self.session.get_modelmeta().custom_metadata_map.get(KEY), path)

    def __call__(self, images: torch.Tensor, sizes: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        feed = {"images": images.numpy()}
        if not self.card.source:
            feed["sizes"] = sizes.numpy()
        results = self.session.run(self.card.outputs, feed)
        return {name: torch.from_numpy(value) for name, value in zip(self.card.outputs, results)}

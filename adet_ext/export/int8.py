"""ONNX files whose convolutions compute in eight bits (static quantization)."""

import os
import tempfile
from collections.abc import Iterable

import torch

from ..errors import UserError, one_line
from .onnx_file import need

__all__ = ["quantize"]

_ACTIVATIONS = ("Relu", "Clip")


def quantize(path: str, inputs: Iterable[tuple[torch.Tensor, ...]]) -> None:
    """Let the convolutions of the file at ``path`` compute in eight bits, in place.

    Weights have a scale for each output channel, feature maps one scale, from the ranges that ``inputs`` show. The
    ReLU after a convolution and the sum of a residual block are quantized with it. Otherwise the range of a ReLU6's
    input would count, of which most is cut off.

    Args:
        inputs: what the graph takes, from images like those that it is for; some tens.

    Raises:
        UserError: onnxruntime cannot quantize the model, or there are no images.
    """
    need("onnxruntime")
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):
        def __init__(self):
            self.feeds = iter(inputs)

        def get_next(self):
            feed = next(self.feeds, None)
            return None if feed is None else {n: x.numpy() for n, x in zip(("images", "sizes"), feed)}

    source = onnx.load(path)
    properties = {x.key: x.value for x in source.metadata_props}
    with tempfile.TemporaryDirectory(dir=os.path.dirname(os.path.abspath(path))) as folder:
        target = os.path.join(folder, "quantized.onnx")
        try:
            quantize_static(
                path,
                target,
                Reader(),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=["Conv", *_ACTIVATIONS, "Add"],
                nodes_to_quantize=_convolutions_and_after(source.graph.node),
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
            )
        except Exception as error:  # onnxruntime's exceptions have no common base
            raise UserError(f"the model cannot be quantized: {one_line(error)}. Use --precision float32") from error
        model = onnx.load(target)
        onnx.helper.set_model_props(model, properties)
        onnx.save(model, path)


def _convolutions_and_after(nodes: Iterable) -> list[str]:
    """Return the names of convolutions, of their activations, and of sums of nothing else.

    Other sums, as of box coordinates, are not for eight bits.
    """
    chosen, maps = [], set()
    for node in nodes:  # in topological order
        summed = node.op_type == "Add" and maps.issuperset(node.input)
        active = node.op_type in _ACTIVATIONS and node.input[0] in maps
        if node.op_type == "Conv" or summed or active:
            chosen.append(node.name)
            maps.update(node.output)
    return chosen

"""Smaller ONNX files: weights in half precision, or convolutions in eight bits.

N images, H x W the frame of the network.
"""

import os
import tempfile
from collections.abc import Iterable

import numpy as np
import torch

from ..errors import UserError, one_line
from .onnx_file import need

__all__ = ["halve_weights", "quantize"]

_SMALLEST = 256  # numbers of a tensor that is worth it


def halve_weights(path: str) -> None:
    """Store the weights of the file at ``path`` in float16, in place. What runs it computes in float32 as before.

    Runtimes widen the weights once, when they open the file.
    """
    import onnx
    from onnx import numpy_helper

    model = onnx.load(path)
    casts = []
    for weight in model.graph.initializer:
        if weight.data_type != onnx.TensorProto.FLOAT or np.prod(weight.dims) < _SMALLEST:
            continue
        name, values = weight.name, numpy_helper.to_array(weight)
        if np.abs(values).max() > np.finfo(np.float16).max:
            continue
        weight.CopyFrom(numpy_helper.from_array(values.astype(np.float16), f"{name}.half"))
        casts.append(onnx.helper.make_node("Cast", [weight.name], [name], to=onnx.TensorProto.FLOAT))
    for i, node in enumerate(casts):
        model.graph.node.insert(i, node)
    onnx.save(model, path)


def quantize(path: str, inputs: Iterable[tuple[torch.Tensor, ...]]) -> None:
    """Let the convolutions of the file at ``path`` compute in eight bits, in place (static quantization).

    Weights have a scale for each output channel. The ranges of activations are those that ``inputs`` show.

    Args:
        inputs: what the graph takes, from images like those that it is for; some tens.

    Raises:
        UserError: onnxruntime cannot quantize the model, or there are no images.
    """
    need("onnxruntime")
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):
        def __init__(self):
            self.feeds = iter(inputs)

        def get_next(self):
            feed = next(self.feeds, None)
            return None if feed is None else {n: x.numpy() for n, x in zip(("images", "sizes"), feed)}

    import onnx

    properties = {x.key: x.value for x in onnx.load(path).metadata_props}
    with tempfile.TemporaryDirectory(dir=os.path.dirname(os.path.abspath(path))) as folder:
        target = os.path.join(folder, "quantized.onnx")
        try:
            quantize_static(
                path,
                target,
                Reader(),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=["Conv"],
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
            )
        except Exception as error:  # onnxruntime's exceptions have no common base
            raise UserError(f"the model cannot be quantized: {one_line(error)}. Use --precision float32") from error
        model = onnx.load(target)
        onnx.helper.set_model_props(model, properties)
        onnx.save(model, path)

"""Smaller ONNX files: weights in half precision."""

import numpy as np

__all__ = ["halve_weights"]

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

"""Translations to ONNX of operators that PyTorch's exporter does not know. Needs onnxscript.

N images, C classes, K candidates an image.
"""

from collections.abc import Callable

import onnx_ir as ir
import torch
from onnxscript import opset18 as op

__all__ = ["translations"]


def translations(num_classes: int) -> dict[torch._ops.OpOverload, Callable]:
    """Return the exporter's ``custom_translation_table`` for a detector of ``num_classes`` classes."""

    def nms_mask(boxes: ir.Value, classes: ir.Value, valid: ir.Value, threshold: float):
        """Suppress with ONNX's operator, which lists what it keeps, and scatter the list into a mask (N, K).

        Candidates come best first; their places stand in for their scores, so that equal scores stay in order.
        """
        zero, one = op.Constant(value_int=0), op.Constant(value_int=1)
        count = op.Shape(valid, start=1, end=2)  # (1,)
        rank = op.Range(op.Squeeze(count), zero, op.Constant(value_int=-1))  # (K,): K, ..., 1
        labels = op.Range(zero, op.Constant(value_int=num_classes), one)
        labels = op.Unsqueeze(labels, op.Constant(value_ints=[1]))  # (C, 1)
        axis = op.Constant(value_ints=[1])
        mine = op.And(op.Equal(op.Unsqueeze(classes, axis), labels), op.Unsqueeze(valid, axis))  # (N, C, K)
        scores = op.Where(mine, op.Cast(rank, to=ir.DataType.FLOAT), op.Constant(value_float=0.0))
        limits = [op.Constant(value_floats=[value]) for value in (threshold, 0.5)]
        kept = op.NonMaxSuppression(boxes, scores, count, *limits)  # (kept, 3): image, class, candidate
        places = op.Gather(kept, op.Constant(value_ints=[0, 2]), axis=1)
        ones = op.Expand(op.Constant(value_float=1.0), op.Shape(places, start=0, end=1))
        none = op.Expand(op.Constant(value_float=0.0), op.Shape(valid))
        return op.Cast(op.ScatterND(none, places, ones), to=ir.DataType.BOOL)

    return {torch.ops.aten.sort.stable: _sort, torch.ops.adet_ext.nms_mask_reference.default: nms_mask}


def _sort(x: ir.Value, stable: bool | None = None, dim: int = -1, descending: bool = False):
    """Sort by ONNX's TopK of all elements.

    Not every runtime breaks ties by place, as ONNX says. So the places become part of flags, whose order is all ties.
    """
    count = op.Shape(x, start=dim, end=dim + 1 if dim != -1 else None)
    if x.dtype not in (ir.DataType.BOOL, ir.DataType.UINT8):
        return op.TopK(x, count, axis=dim, largest=int(descending), sorted=1)
    if descending or dim not in (-1, len(x.shape) - 1):
        raise NotImplementedError("flags are sorted upward along the last dimension alone")
    places = op.Range(op.Constant(value_int=0), op.Squeeze(count), op.Constant(value_int=1))
    keys = op.Add(op.Mul(op.Cast(x, to=ir.DataType.INT64), count), places)
    _, order = op.TopK(keys, count, axis=dim, largest=0, sorted=1)
    return op.GatherElements(x, order, axis=dim), order

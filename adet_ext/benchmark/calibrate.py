"""Calibrate random weights to a given number of detections, so that untrained models can be timed side by side.

A model with random weights finds nothing, or the most that its limits allow. Either way its cost per detection is not
that of a trained model. So the output layers get the spread of trained ones, boxes a typical size, and the
classification bias is searched for the wanted number of detections.
"""

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

__all__ = ["calibrate", "count_detections"]

# Output layers by the last part of their names: the standard deviation their outputs are brought to.
_SPREAD = {
    "cls_logits": 2.0,  # FCOS and RetinaNet: logits of a sigmoid
    "cls_score": 3.0,  # Mask R-CNN: logits of a softmax
    "ctrness": 1.0,
    "objectness_logits": 1.0,
    "anchor_deltas": 0.1,
    "bbox_pred": 0.1,
}
# FCOS predicts distances in strides, not offsets from anchors: about four strides to each side.
_FCOS_DISTANCE = (1.0, 4.0)


def count_detections(outputs: list[dict]) -> float:
    """Return the mean number of detections per image."""
    return sum(len(output["instances"]) for output in outputs) / len(outputs)


def calibrate(model: nn.Module, inputs: list[dict], low: int, high: int, steps: int = 30) -> float:
    """Change the output layers, in place, until the model finds ``low`` to ``high`` detections per image.

    Returns:
        the number of detections per image.

    Raises:
        ValueError: the model has no known classification layer, or no bias leads into the range.
    """
    with torch.inference_mode():
        for _ in range(2):  # twice, since second-stage heads read the first stage's proposals
            _set_spread(model, inputs)
        shift = _find_bias(model)
        least, most = -30.0, 30.0
        shift(least)
        position = least
        for _ in range(steps):
            middle = (least + most) / 2
            shift(middle - position)
            position = middle
            count = count_detections(model(inputs))
            logging.getLogger(__name__).info("bias %+.4f: %.1f detections", middle, count)
            if low <= count <= high:
                return count
            least, most = (middle, most) if count < low else (least, middle)
    raise ValueError(f"{type(model).__name__} must find {low} to {high} detections with some bias; got {count:g}")


def _set_spread(model: nn.Module, inputs: list[dict]) -> None:
    moments: dict[str, list[tuple[float, float]]] = {}
    layers = {
        name: module
        for name, module in model.named_modules()
        if name.rpartition(".")[2] in _SPREAD and isinstance(module, (nn.Conv2d, nn.Linear))
    }
    hooks = [layer.register_forward_hook(_note(moments.setdefault(name, []))) for name, layer in layers.items()]
    try:
        model(inputs)
    finally:
        for hook in hooks:
            hook.remove()
    for name, layer in layers.items():
        if not moments[name]:
            continue
        variance = sum(v for v, _ in moments[name]) / len(moments[name])
        parent = model.get_submodule(name.rpartition(".")[0])
        last = name.rpartition(".")[2]
        spread, mean = _SPREAD[last], None
        if last == "bbox_pred":
            spread, mean = _FCOS_DISTANCE if hasattr(parent, "ctrness") else (spread, 0.0)
        layer.weight.mul_(spread / max(variance**0.5, 1e-12))
        if mean is not None:
            layer.bias.fill_(mean)


def _note(moments: list[tuple[float, float]]) -> Callable:
    def hook(module: nn.Module, args: Any, output: torch.Tensor) -> None:
        if output.numel() > 1:
            moments.append((float(output.float().var()), float(output.float().mean())))

    return hook


def _find_bias(model: nn.Module) -> Callable[[float], None]:
    """Return a function that adds a step to the logits of every class."""
    if hasattr(model, "shift_scores"):
        return model.shift_scores
    for name, module in model.named_modules():
        last = name.rpartition(".")[2]
        if last == "cls_logits" and isinstance(module, nn.Conv2d):
            return lambda step: module.bias.add_(step)
        if last == "cls_score" and isinstance(module, nn.Linear):
            return lambda step: module.bias[-1].sub_(step)  # the last class is the background
    raise ValueError(f"a model to calibrate must have cls_logits or cls_score; got {type(model).__name__}")

"""Put a foreign classifier's weights into the body of a model, and say how its images must look."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import nn

from .foreign_names import Foreign

__all__ = ["look_of", "place"]

# Where a body is in a model: below a pyramid, alone, or it is the model.
_PREFIXES = ("backbone.bottom_up.", "backbone.", "bottom_up.", "")
_TOLERANCE = 1.0  # of means and deviations, in gray levels; 127 and 127.5 are both in use


def place(foreign: Foreign, tensors: Mapping[str, Any], model: nn.Module) -> dict[str, Any]:
    """Return ``tensors`` under the names of ``model``, those that it has no counterpart for under their own.

    Raises:
        ValueError: the model has no body of this kind.
    """
    known = model.state_dict().keys()
    hits = {prefix: sum(prefix + new in known for new in foreign.names.values()) for prefix in _PREFIXES}
    prefix = max(hits, key=hits.get)
    weights = sum(not name.endswith("num_batches_tracked") for name in foreign.names)
    if hits[prefix] < weights / 2:
        backbone = getattr(model, "backbone", model)
        body = type(getattr(backbone, "bottom_up", backbone)).__name__
        raise ValueError(
            f"the file holds {foreign.kind}, whose {len(foreign.names)} tensors do not fit the model's body, {body}; "
            "set MODEL.BACKBONE.NAME and its keys to that kind"
        )
    placed = {}
    for name, value in tensors.items():
        new = prefix + foreign.names[name] if name in foreign.names else name
        # Frozen norms count no batches.
        if new in known or not name.endswith("num_batches_tracked"):
            placed[new] = value
    body = model.get_submodule(prefix.removesuffix("."))
    return body.fit_foreign(placed, prefix) if hasattr(body, "fit_foreign") else placed


def look_of(foreign: Foreign, model: nn.Module) -> str:
    """Return what the weights need that the model does differently, as keys with values; "" if nothing."""
    wanted = []
    mean, std = (getattr(model, name, None) for name in ("pixel_mean", "pixel_std"))
    if getattr(model, "input_format", "RGB") != "RGB":
        wanted.append("INPUT.FORMAT RGB")
    if mean is not None and std is not None:
        has = (mean.flatten().tolist(), std.flatten().tolist())
        if not any(np.allclose(has, look, rtol=0, atol=_TOLERANCE) for look in foreign.looks):
            for key, values in zip(("PIXEL_MEAN", "PIXEL_STD"), foreign.looks[0]):
                wanted.append(f"MODEL.{key} [{', '.join(f'{value:g}' for value in values)}]")
    if "ResNet" in foreign.kind and any(_strides_first(module) for module in model.modules()):
        wanted.append("MODEL.RESNETS.STRIDE_IN_1X1 False")
    return ", ".join(wanted)


def _strides_first(block: nn.Module) -> bool:
    """Whether a bottleneck block has its stride in the first 1x1 convolution, as Detectron2's own weights do."""
    return hasattr(block, "conv3") and hasattr(block, "conv1") and tuple(block.conv1.stride) == (2, 2)

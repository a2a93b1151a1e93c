"""Match the tensors of a checkpoint with those of a model that has other names."""

import logging
import os
import re
from typing import Any

from torch import Tensor

_logger = logging.getLogger(__name__)

# Caffe2 writes underscores for dots. They are replaced first, and the rules apply in this order.
_CAFFE2 = [
    (r"\.b$", ".bias"),
    (r"\.w$", ".weight"),
    (r"\b(bn|gn)\.(s|gamma)$", "norm.weight"),
    (r"\b(bn|gn)\.(bias|beta)$", "norm.bias"),
    (r"\bbn\.(rm|running\.mean)$", "norm.running_mean"),
    (r"\bbn\.(riv|running\.var)$", "norm.running_var"),
    (r"^res\.conv1\.norm\.", "conv1.norm."),
    (r"^conv1\.", "stem.conv1."),
    (r"\.branch1\.", ".shortcut."),
    (r"\.branch2a\.", ".conv1."),
    (r"\.branch2b\.", ".conv2."),
    (r"\.branch2c\.", ".conv3."),
    (r"^fpn\.inner\.res(\d)\.\d+\.sum\.lateral\.", r"fpn_lateral\1."),
    (r"^fpn\.res(\d)\.\d+\.sum\.", r"fpn_output\1."),
]

_TORCHVISION = [
    (r"^conv1\.", "stem.conv1."),
    (r"^bn1\.", "stem.conv1.norm."),
    (r"^layer1\.", "res2."),
    (r"^layer2\.", "res3."),
    (r"^layer3\.", "res4."),
    (r"^layer4\.", "res5."),
    (r"\.bn(\d)\.", r".conv\1.norm."),
    (r"\.downsample\.0\.", ".shortcut."),
    (r"\.downsample\.1\.", ".shortcut.norm."),
]


def match_names(model: dict[str, Tensor], checkpoint: dict[str, Any], *, caffe2: bool = False) -> dict[str, Any]:
    """Rename each tensor of ``checkpoint`` to the name in ``model`` that ends with its own.

    ``res2.0.conv1.weight`` becomes ``backbone.bottom_up.res2.0.conv1.weight``. If several tensors fit, the longest name
    is used. ``caffe2`` translates Caffe2's names first; torchvision's ResNet names are recognized. Tensors without a
    counterpart keep their name. Raise ``ValueError`` if one tensor fits two of the model.
    """
    if caffe2:
        checkpoint = {_rename(name.replace("_", "."), _CAFFE2): value for name, value in checkpoint.items()}
    elif "layer1.0.conv1.weight" in checkpoint and "layer1.0.conv1.weight" not in model:
        checkpoint = {
            _rename(name, _TORCHVISION): value
            for name, value in checkpoint.items()
            if not name.endswith("num_batches_tracked")
        }
    matched: dict[str, str] = {}  # name in the checkpoint to name in the model
    for target in sorted(model):
        source = _longest_suffix(target, checkpoint)
        if source is None:
            continue
        # Tensors of another shape do not count, because other names may also end with "conv.weight".
        fits = checkpoint[source].shape == model[target].shape
        owner = matched.get(source)
        if owner is not None and fits and checkpoint[source].shape == model[owner].shape:
            raise ValueError(f"{source} of the checkpoint could be both {owner} and {target} of the model")
        if owner is None or fits:
            matched[source] = target
    if not matched:
        _logger.warning("No tensor of the checkpoint belongs to the model")
        return checkpoint
    common = os.path.commonprefix(list(matched.values())).rpartition(".")[0]
    _logger.info("%d tensors of the checkpoint belong to %s", len(matched), common or "the model")
    return {matched.get(name, name): value for name, value in checkpoint.items()}


def _rename(name: str, rules: list[tuple[str, str]]) -> str:
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


def _longest_suffix(name: str, names: dict[str, Any]) -> str | None:
    """Return the longest of ``names`` that is ``name`` or a whole-word end of it."""
    while name not in names:
        _, dot, name = name.partition(".")
        if not dot:
            return None
    return name

"""Matching the tensors of a checkpoint to those of a model whose names differ."""

import logging
import os
import re
from typing import Any

from torch import Tensor

_logger = logging.getLogger(__name__)

# Caffe2 writes underscores for dots, so every rule sees dots. In this order.
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
    """Rename the tensors of ``checkpoint``: each belongs to the name in ``model`` that ends in its own.

    ``res2.0.conv1.weight`` goes to ``backbone.bottom_up.res2.0.conv1.weight``; of several that fit, the
    longest. ``caffe2`` translates Caffe2's names first; torchvision's ResNet names are recognized. Tensors
    without a counterpart keep their name. Raises ``ValueError`` where one tensor fits two of the model's.
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
        # A tensor of another shape is no second owner: "conv.weight" may well end other names too.
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
    """The longest of ``names`` that is ``name`` or a whole-word end of it."""
    while name not in names:
        _, dot, name = name.partition(".")
        if not dot:
            return None
    return name

"""Parameter names of the published NAS-FCOS checkpoints and of torchvision's MobileNetV2, and ours.

The published files (github.com/Lausannen/NAS-FCOS) are those of maskrcnn-benchmark: ``encoder.body`` is the backbone,
``decoder.fpn`` the FPN with its cells in ``_ops``, ``decoder.rpn.head`` the head.
"""

import re
from collections.abc import Mapping, Sequence

import torch

from adet_ext.errors import UserError

__all__ = ["from_public", "from_torchvision_mobilenet"]

_BODY = "backbone.bottom_up."
_HEAD = "proposal_generator.fcos_head."

# In this order; each is applied where it matches.
_PUBLIC = (
    (r"^module\.", ""),
    (r"^encoder\.body\.", _BODY),
    # The ResNet: "layer1.0.bn1" is the norm of "res2.0.conv1".
    (rf"^{_BODY}layer(\d)\.", lambda m: f"{_BODY}res{int(m[1]) + 1}."),
    (r"\.bn(\d)\.", r".conv\1.norm."),
    (r"\.downsample\.0\.", ".shortcut."),
    (r"\.downsample\.1\.", ".shortcut.norm."),
    # The FPN.
    (r"^decoder\.fpn\.adapt(\d)\.", lambda m: f"backbone.fpn.adapters.{int(m[1]) - 1}."),
    (r"^decoder\.fpn\.top_blocks\.", "backbone.fpn.top_block."),
    (r"^decoder\.fpn\._ops\.(\d+)\.0\.", r"backbone.fpn.cells.\1.first."),
    (r"^decoder\.fpn\._ops\.(\d+)\.1\.", r"backbone.fpn.cells.\1.second."),
    (r"^decoder\.fpn\._ops\.(\d+)\.2\.(?:conv1x1\.)?", r"backbone.fpn.cells.\1.merge."),
    # The head, found or FCOS' own.
    (r"^decoder\.rpn\.head\.", _HEAD),
    (rf"^{_HEAD}_(cls|reg)_head_global_ops\.", lambda m: f"{_HEAD}{_TOWERS[m[1]]}.shared."),
    (rf"^{_HEAD}_(cls|reg)_head_split_ops\.", lambda m: f"{_HEAD}{_TOWERS[m[1]]}.own."),
    (rf"^{_HEAD}centerness\.", f"{_HEAD}ctrness."),
    # The operations.
    (r"\.op\.sep_0\.", "."),
    (r"\.dcn\.0\.conv_offset_mask\.", ".0.offset."),
    (r"\.dcn\.0\.", ".0.conv."),
    (r"\.dcn\.", "."),
)
_TOWERS = {"cls": "cls_tower", "reg": "bbox_tower"}

# The frozen norms of maskrcnn-benchmark divide by sqrt(variance), Detectron2's by sqrt(variance + this).
_FROZEN_EPS = 1e-5


def from_public(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the tensors of a published checkpoint under this project's names, for the config of the same architecture.

    A ResNet's frozen norms are brought to Detectron2's convention, so that the model computes the same.

    Raises:
        UserError: the names are not those of a published checkpoint.
    """
    renamed = {}
    for name, value in state.items():
        new = name
        for pattern, replacement in _PUBLIC:
            new = re.sub(pattern, replacement, new)
        if new.startswith(_BODY) and "features." not in new and new.endswith(".norm.running_var"):
            value = value - _FROZEN_EPS
        renamed[new] = value
    ours = ("backbone.", "proposal_generator.")
    if not any(name.startswith("backbone.fpn.") for name in renamed) or not all(n.startswith(ours) for n in renamed):
        other = next((name for name in state if not _renames_to(name, renamed, ours)), "nothing else")
        raise UserError(
            f"a published NAS-FCOS checkpoint must have encoder.body, decoder.fpn and decoder.rpn.head; got {other}. "
            "Give one of those"
        )
    return renamed


def _renames_to(name: str, renamed: Mapping[str, torch.Tensor], starts: tuple[str, ...]) -> bool:
    for pattern, replacement in _PUBLIC:
        name = re.sub(pattern, replacement, name)
    return name.startswith(starts)


def from_torchvision_mobilenet(
    state: Mapping[str, torch.Tensor], std: Sequence[float] = (58.395, 57.12, 57.375)
) -> dict[str, torch.Tensor]:
    """Return torchvision's MobileNetV2 under the body's names, for images in BGR that are not divided by ``std``.

    The last 1x1 convolution and the classifier are left out. The first convolution takes BGR, and the division by the
    deviations (of R, G and B, in units of 1/255) goes into it, so that MODEL.PIXEL_STD stays 1.

    Raises:
        UserError: the state is not that of torchvision's MobileNetV2.
    """
    first = state.get("features.0.0.weight")
    if first is None or "features.17.conv.2.weight" not in state or first.shape[1] != len(std):
        raise UserError("the weights must be those of torchvision's mobilenet_v2; got others. Give that file")
    renamed = {}
    for name, value in state.items():
        if name.startswith(("classifier.", "features.18.")):
            continue
        # "features.2.conv.1.0": a convolution and its norm are a pair inside the block, except for the last one.
        match = re.match(r"features\.(\d+)\.conv\.(\d)\.(?:(\d)\.)?(.+)", name)
        if match:
            block, pair, part, rest = match.groups()
            # Blocks are flat here: convolution, norm, ReLU6, ..., convolution, norm.
            pairs = 1 if block == "1" else 2
            index = 3 * int(pair) + int(part) if part else 3 * pairs + int(pair) - pairs
            name = f"features.{block}.conv.{index}.{rest}"
        if name == "features.0.0.weight":
            value = (value / value.new_tensor(std)[None, :, None, None]).flip(1)
        renamed[_BODY + name] = value
    return renamed

"""ImageNet weights of MobileNetV2 from torchvision's and timm's files, under this package's names."""

import re
from collections.abc import Mapping

import torch

from ...errors import UserError
from .mobilenet import BLOCKS

__all__ = ["mobilenet_state"]

_FIRST = "features.1.conv."  # the block that does not widen: two convolutions instead of three
# timm's parts of a block, to places in ``InvertedResidual.conv``.
_TIMM_FIRST = {"conv_dw": 0, "bn1": 1, "conv_pw": 3, "bn2": 4}
_TIMM = {"conv_pw": 0, "bn1": 1, "conv_dw": 3, "bn2": 4, "conv_pwl": 6, "bn3": 7}
_NORM_EPS = 1e-5


def mobilenet_state(state: Mapping[str, torch.Tensor], *, always_widen: bool = False) -> dict[str, torch.Tensor]:
    """Return the weights of torchvision's ``mobilenet_v2`` or timm's ``mobilenetv2_100`` for :class:`MobileNetV2`.

    The last 1x1 convolution and the classifier are left out. Images are RGB, normalized as ImageNet's.

    Args:
        always_widen: for the body with a 1x1 convolution in its first block. It gets the identity, which changes
            nothing: what comes in has passed a ReLU6.

    Raises:
        UserError: the names are those of neither.
    """
    stem = state.get("features.0.0.weight", state.get("conv_stem.weight"))
    if stem is None or stem.shape[:2] != (32, 3):
        raise UserError("the weights must be those of torchvision's mobilenet_v2 or timm's mobilenetv2_100; got others")
    rename = _from_timm if "conv_stem.weight" in state else _from_torchvision
    renamed = {new: value for name, value in state.items() if (new := rename(name))}
    if f"features.{sum(BLOCKS)}.conv.7.weight" not in renamed:
        raise UserError("the weights must be those of the whole mobilenet_v2; its last block is missing")
    if always_widen:
        first = {name: renamed.pop(name) for name in list(renamed) if name.startswith(_FIRST)}
        for name, value in first.items():
            index, rest = name[len(_FIRST) :].split(".", 1)
            renamed[f"{_FIRST}{int(index) + 3}.{rest}"] = value
        renamed |= _identity(stem.shape[0], stem)
    return renamed


def _from_torchvision(name: str) -> str:
    """Return the name here; "" for what the body does not have."""
    if name.startswith(("classifier.", "features.18.")):
        return ""
    # "features.2.conv.1.0": a convolution and its norm are a pair inside the block, except for the last one.
    match = re.match(r"features\.(\d+)\.conv\.(\d)\.(?:(\d)\.)?(.+)", name)
    if not match:
        return name
    block, pair, part, rest = match.groups()
    # Blocks are flat here: convolution, norm, ReLU6, ..., convolution, norm.
    pairs = 1 if block == "1" else 2
    index = 3 * int(pair) + int(part) if part else 3 * pairs + int(pair) - pairs
    return f"features.{block}.conv.{index}.{rest}"


def _from_timm(name: str) -> str:
    if name == "conv_stem.weight":
        return "features.0.0.weight"
    if name.startswith("bn1."):
        return f"features.0.1.{name[4:]}"
    match = re.match(r"blocks\.(\d)\.(\d)\.(\w+)\.(.+)", name)
    if not match:
        return ""
    row, block, part, rest = int(match[1]), int(match[2]), match[3], match[4]
    index = (_TIMM_FIRST if row == 0 else _TIMM).get(part)
    return "" if index is None else f"features.{1 + sum(BLOCKS[:row]) + block}.conv.{index}.{rest}"


def _identity(channels: int, like: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return a 1x1 convolution and a norm that change nothing."""
    one, zero = like.new_ones(channels), like.new_zeros(channels)
    return {
        f"{_FIRST}0.weight": torch.eye(channels, dtype=like.dtype).view(channels, channels, 1, 1),
        f"{_FIRST}1.weight": one,
        f"{_FIRST}1.bias": zero,
        f"{_FIRST}1.running_mean": zero.clone(),
        f"{_FIRST}1.running_var": one - _NORM_EPS,
        f"{_FIRST}1.num_batches_tracked": torch.tensor(0),
    }

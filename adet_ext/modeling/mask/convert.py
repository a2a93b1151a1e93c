"""Convert between SmalMask's predictor and SmalMask2's head, which have the same parameters (thesis 3.4).

C channels, k x k the kernel, M the side of a mask.
"""

from collections.abc import Mapping

import torch

__all__ = ["convert_smalmask", "head_from_predictor", "predictor_from_head"]

_PREDICTOR = "mask_predictor.pred."
_HEAD = "mask_head.fc."
# Any layer of FCOS has C input channels, as the mask branch has.
_WIDTH = "proposal_generator.fcos_head.bbox_pred.weight"


def convert_smalmask(state: Mapping[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], str]:
    """Convert a shared SmalMask's parameters to a SmalMask2's, or the reverse; everything else is kept.

    Returns:
        the parameters, and the name of the model that takes them.

    Raises:
        ValueError: the parameters are of neither.
    """
    if _PREDICTOR + "weight" in state:
        return head_from_predictor(state), "SmalMask2"
    if _HEAD + "weight" in state:
        return predictor_from_head(state), "SmalMask"
    other = sorted({name.split(".")[1] for name in state if name.startswith("mask_predictor.")})
    found = f"a SmalMask whose predictor has {', '.join(other)}" if other else "no mask branch of SmalMask or SmalMask2"
    raise ValueError(f"it must have a RoIPred or SmalHead to be converted; got {found}")


def head_from_predictor(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Convert RoIPred's weight (M^2, C, k, k) to the fully connected layer's (M^2, k^2 C).

    Raises:
        ValueError: the predictor has a tower of its own, which SmalMask2 does not have.
    """
    if any(name.startswith("mask_tower.") for name in state):
        raise ValueError(
            "MODEL.SMALMASK.TOWER must be shared to convert to SmalMask2, which has no mask tower; got separate"
        )
    moved = _renamed(state, _PREDICTOR, _HEAD)
    moved[_HEAD + "weight"] = moved[_HEAD + "weight"].permute(0, 2, 3, 1).flatten(1)
    return moved


def predictor_from_head(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Convert the fully connected layer's weight (M^2, k^2 C) to RoIPred's (M^2, C, k, k).

    Raises:
        ValueError: the layer's width is not the detector's C times a square.
    """
    moved = _renamed(state, _HEAD, _PREDICTOR)
    weight = moved[_PREDICTOR + "weight"]
    channels = state[_WIDTH].shape[1] if _WIDTH in state else 0
    k = round((weight.shape[1] / channels) ** 0.5) if channels else 0
    if channels * k * k != weight.shape[1]:
        raise ValueError(f"{_HEAD}weight must have k x k samples of {channels} channels; got {weight.shape[1]} inputs")
    moved[_PREDICTOR + "weight"] = weight.unflatten(1, (k, k, channels)).permute(0, 3, 1, 2).contiguous()
    return moved


def _renamed(state: Mapping[str, torch.Tensor], old: str, new: str) -> dict[str, torch.Tensor]:
    return {new + name.removeprefix(old) if name.startswith(old) else name: value for name, value in state.items()}

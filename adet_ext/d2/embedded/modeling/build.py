"""Build parts of models by name."""

from typing import Any

import torch
from fvcore.common.registry import Registry as _FvcoreRegistry
from torch import nn

from ..config import CfgNode
from ..layers import ShapeSpec


class _Registry(_FvcoreRegistry):
    """fvcore's registry. For an unknown name, the error lists the known ones and where to get others."""

    def get(self, name: str) -> Any:
        if name not in self:
            known = ", ".join(sorted(known for known, _ in self)) or "none"
            raise KeyError(
                f"'{name}' is not in the registry {self._name} (registered: {known}). The embedded engine "
                "has only what this package's own models use; install Detectron2 for its other architectures"
            )
        return super().get(name)


# A registered object is called with the config. Backbones, proposal generators and heads also get the shape (or the
# shapes by name) of their input.
META_ARCH_REGISTRY = _Registry("META_ARCH")
BACKBONE_REGISTRY = _Registry("BACKBONE")
PROPOSAL_GENERATOR_REGISTRY = _Registry("PROPOSAL_GENERATOR")
SEM_SEG_HEADS_REGISTRY = _Registry("SEM_SEG_HEADS")


class Backbone(nn.Module):
    """Base of backbones: ``forward`` takes images (N, C, H, W) and returns feature maps by name.

    A subclass sets ``_out_features`` (names), ``_out_feature_channels`` and ``_out_feature_strides`` (by
    name), or overrides :meth:`output_shape`.
    """

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        raise NotImplementedError(f"{type(self).__name__} must define forward")

    @property
    def size_divisibility(self) -> int:
        """The number that height and width of the input must be multiples of; 0 for any."""
        return 0

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Return channels and stride of every feature map."""
        return {
            name: ShapeSpec(channels=self._out_feature_channels[name], stride=self._out_feature_strides[name])
            for name in self._out_features
        }


def build_model(cfg: CfgNode) -> nn.Module:
    """Return the model of ``MODEL.META_ARCHITECTURE`` on ``MODEL.DEVICE``, with its initial weights."""
    model = META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE)(cfg)
    return model.to(torch.device(cfg.MODEL.DEVICE))


def build_backbone(cfg: CfgNode, input_shape: ShapeSpec | None = None) -> Backbone:
    """Return the backbone of ``MODEL.BACKBONE.NAME``, for images with as many channels as ``MODEL.PIXEL_MEAN``."""
    if input_shape is None:
        input_shape = ShapeSpec(channels=len(cfg.MODEL.PIXEL_MEAN))
    backbone = BACKBONE_REGISTRY.get(cfg.MODEL.BACKBONE.NAME)(cfg, input_shape)
    if not isinstance(backbone, Backbone):
        raise AssertionError(f"{cfg.MODEL.BACKBONE.NAME} returned a {type(backbone).__name__}, not a Backbone")
    return backbone


def build_proposal_generator(cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> nn.Module | None:
    """Return the proposal generator of ``MODEL.PROPOSAL_GENERATOR.NAME``; None for "PrecomputedProposals"."""
    name = cfg.MODEL.PROPOSAL_GENERATOR.NAME
    return None if name == "PrecomputedProposals" else PROPOSAL_GENERATOR_REGISTRY.get(name)(cfg, input_shape)


def build_sem_seg_head(cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> nn.Module:
    """Return the semantic head of ``MODEL.SEM_SEG_HEAD.NAME``."""
    return SEM_SEG_HEADS_REGISTRY.get(cfg.MODEL.SEM_SEG_HEAD.NAME)(cfg, input_shape)

"""Count what a config's model costs: parameters, multiply-adds and activations at an image size."""

import torch
from torch import nn

from ..d2.config import CfgNode
from ..d2.modeling import build_model
from .cost import Cost, measure
from .inputs import make_inputs

__all__ = ["analyze", "build_for_costs", "config_size"]


def config_size(cfg: CfgNode) -> tuple[int, int]:
    """Return the height and width that the config tests a 4:3 picture at: 800 x 1088 for a shorter side of 800.

    The width is rounded up to a multiple of 32, as the backbones pad it, and kept within INPUT.MAX_SIZE_TEST.
    """
    height = cfg.INPUT.MIN_SIZE_TEST or 800
    width = min(-(-height * 4 // 3 // 32) * 32, cfg.INPUT.MAX_SIZE_TEST)
    return height, width


def build_for_costs(cfg: CfgNode) -> nn.Module:
    """Build the config's model on the CPU with random weights; nothing is downloaded."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.WEIGHTS = ""
    return build_model(cfg).eval()


def analyze(cfg: CfgNode, height: int, width: int) -> Cost:
    """Count one evaluation of the config's model on an image of ``height`` x ``width``."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return measure(build_for_costs(cfg), [make_inputs((), height, width)])

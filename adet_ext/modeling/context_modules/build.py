"""Build the context module that a config names."""

from torch import nn

from ...d2.utils import Registry
from ..checks import check_choice

__all__ = ["CONTEXT_MODULE_REGISTRY", "build_context_module"]

CONTEXT_MODULE_REGISTRY = Registry("CONTEXT_MODULE")
CONTEXT_MODULE_REGISTRY.__doc__ = "Classes that are built from (cfg, channels) and map (N, C, H, W) to the same shape."


def build_context_module(cfg, channels: int) -> nn.Module:
    """Build ``cfg.MODEL.CONTEXT.UNITS`` modules in a row for features of ``channels`` channels.

    An empty ``cfg.MODEL.CONTEXT.NAME`` gives ``nn.Identity``.

    Raises:
        ValueError: the name is unknown, or a number is not positive.
    """
    context = cfg.MODEL.CONTEXT
    if not context.NAME:
        return nn.Identity()
    check_choice("MODEL.CONTEXT.NAME", context.NAME, sorted(name for name, _ in CONTEXT_MODULE_REGISTRY))
    for key in ("NODES", "CHANNELS", "UNITS"):
        if context[key] < 1:
            raise ValueError(f"MODEL.CONTEXT.{key} must be 1 or more; got {context[key]}")
    module = CONTEXT_MODULE_REGISTRY.get(context.NAME)
    units = [module(cfg, channels) for _ in range(context.UNITS)]
    return units[0] if len(units) == 1 else nn.Sequential(*units)

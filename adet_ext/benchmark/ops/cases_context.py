"""Cases of the context modules: each against a non-local block on the same features, as a bound; no target."""

import torch
from torch import nn
from torch.nn import functional as F

from ...config import get_cfg
from ...modeling.context_modules import build_context_module
from .case import Case, Contest

__all__ = ["NonLocal", "cases"]

CHANNELS = 512
# H, W of stride 8 at 513 x 1025 and at 1024 x 2048, the second half in each direction.
PLACES = ((65, 129), (128, 256))
MODULES = ("DoubleAttention", "GloRe", "SymbolicReasoning", "GraphConvUnit")


class NonLocal(nn.Module):
    """The embedded Gaussian block of Wang et al. (2018): every place attends to every place.

    Args:
        fused: use torch's attention, which keeps no tensor of HW x HW but takes the same O((HW)^2 C) products.
    """

    def __init__(self, channels: int, fused: bool):
        super().__init__()
        self.fused = fused
        self.project = nn.Conv2d(channels, 3 * (channels // 2), 1)
        self.extend = nn.Conv2d(channels // 2, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (N, C, H, W) to the same shape."""
        # On a CPU, the fused attention takes channels that lie together, and else falls back to the plain products.
        query, key, value = self.project(x).flatten(2).transpose(1, 2).contiguous().chunk(3, dim=2)
        if self.fused:
            seen = F.scaled_dot_product_attention(query[:, None], key[:, None], value[:, None], scale=1.0)[:, 0]
        else:
            seen = (query @ key.transpose(1, 2)).softmax(dim=2) @ value
        return x + self.extend(seen.transpose(1, 2).unflatten(2, x.shape[2:]))


def cases() -> list[Case]:
    """At the smaller size against the plain block, at the larger against torch's fused attention."""
    found = []
    for places in PLACES:
        fused = places != PLACES[0]
        baseline = "non-local block" + (", fused attention" if fused else "")
        shape = f"1x{CHANNELS}x{places[0]}x{places[1]}"
        found += [Case(f"context {name}", shape, baseline, _make(name, places, fused), {}) for name in MODULES]
    return found


def _make(name: str, places: tuple[int, int], fused: bool):
    def make(device: torch.device, dtype: torch.dtype) -> Contest:
        torch.manual_seed(0)
        cfg = get_cfg()
        cfg.MODEL.CONTEXT.NAME = name
        ours = build_context_module(cfg, CHANNELS).to(device, dtype).eval()
        theirs = NonLocal(CHANNELS, fused).to(device, dtype).eval()
        x = torch.randn(1, CHANNELS, *places, device=device, dtype=dtype)

        def forward(module: nn.Module) -> torch.Tensor:
            with torch.no_grad():
                return module(x)

        return Contest(lambda: forward(ours), lambda: forward(theirs), 2 * x.numel() * x.element_size(), same=False)

    return make

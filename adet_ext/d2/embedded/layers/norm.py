"""Normalization layers.

N images, C channels, H and W height and width.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from fvcore.nn.distributed import differentiable_all_reduce
from torch import Tensor, nn

from ..utils import comm


class FrozenBatchNorm2d(nn.Module):
    """Batch norm with fixed statistics and affine values: all four are buffers.

    Checkpoints from before version 2 of this layer have no statistics, because weight and bias
    contain them. They are loaded with mean 0 and variance 1.
    """

    _version = 3

    def __init__(self, num_features: int, eps: float = 1e-5):
        super().__init__()
        self.num_features = num_features
        self.eps = eps
        self.register_buffer("weight", torch.ones(num_features))
        self.register_buffer("bias", torch.zeros(num_features))
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features) - eps)
        # Kept if a batch norm was converted, so that its state dict stays complete.
        self.register_buffer("num_batches_tracked", None)

    def forward(self, x: Tensor) -> Tensor:
        if not x.requires_grad:
            return F.batch_norm(
                x, self.running_mean, self.running_var, self.weight, self.bias, training=False, eps=self.eps
            )
        # batch_norm would also compute gradients of the constants, and keep memory for them.
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        shift = self.bias - self.running_mean * scale
        return x * scale[:, None, None].to(x.dtype) + shift[:, None, None].to(x.dtype)

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, *args) -> None:
        if (local_metadata.get("version") or 1) < 2:
            state_dict.setdefault(prefix + "running_mean", torch.zeros_like(self.running_mean))
            state_dict.setdefault(prefix + "running_var", torch.ones_like(self.running_var))
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *args)

    def extra_repr(self) -> str:
        return f"num_features={self.num_features}, eps={self.eps}"

    @classmethod
    def convert_frozen_batchnorm(cls, module: nn.Module) -> nn.Module:
        """Replace every (synchronized) batch norm in ``module``, in place; return it, or its replacement."""
        if not isinstance(module, nn.BatchNorm2d | nn.SyncBatchNorm):
            for name, child in module.named_children():
                module.add_module(name, cls.convert_frozen_batchnorm(child))
            return module
        frozen = cls(module.num_features, module.eps)
        if module.affine:
            frozen.weight = module.weight.detach().clone()
            frozen.bias = module.bias.detach().clone()
        frozen.running_mean = module.running_mean
        frozen.running_var = module.running_var
        frozen.num_batches_tracked = module.num_batches_tracked
        return frozen


class NaiveSyncBatchNorm(nn.BatchNorm2d):
    """Batch norm over all processes with equal weights, by a plain reduction. It also runs on the CPU."""

    def forward(self, input: Tensor) -> Tensor:
        if comm.get_world_size() == 1 or not self.training:
            return super().forward(input)
        if input.shape[0] == 0:
            raise AssertionError("NaiveSyncBatchNorm got no images")
        # Half precision is not enough for sums over whole batches.
        x = input.float() if input.dtype == torch.float16 else input
        moments = torch.cat([x.mean(dim=[0, 2, 3]), (x * x).mean(dim=[0, 2, 3])])  # 2C
        mean, mean_square = (differentiable_all_reduce(moments) * (1.0 / comm.get_world_size())).chunk(2)
        var = mean_square - mean * mean
        scale = self.weight * torch.rsqrt(var + self.eps)
        shift = self.bias - mean * scale
        self.running_mean += self.momentum * (mean.detach() - self.running_mean)
        self.running_var += self.momentum * (var.detach() - self.running_var)
        return (x * scale[:, None, None] + shift[:, None, None]).to(input.dtype)


_NORMS: dict[str, Callable[[int], nn.Module]] = {
    "BN": nn.BatchNorm2d,
    "SyncBN": nn.SyncBatchNorm,
    "FrozenBN": FrozenBatchNorm2d,
    "GN": lambda channels: nn.GroupNorm(32, channels),
    "naiveSyncBN": NaiveSyncBatchNorm,
}


def get_norm(norm: str | Callable[[int], nn.Module] | None, out_channels: int) -> nn.Module | None:
    """Build a norm by its name in configs, or by calling ``norm``. "" and None give None."""
    if norm is None or norm == "":
        return None
    if not isinstance(norm, str):
        return norm(out_channels)
    if norm not in _NORMS:
        raise KeyError(f"there is no norm '{norm}'; there are {', '.join(_NORMS)}")
    return _NORMS[norm](out_channels)

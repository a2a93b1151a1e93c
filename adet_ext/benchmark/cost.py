"""Measure what a model costs: parameters, multiply-adds, elementwise operations and activations, per module.

Multiply-adds are those of convolutions (deformable ones too) and matrix products, one for each multiplication with its
addition; papers on detection mostly call them FLOPs, and twice their number are floating-point operations. Activations
are the numbers in the outputs of these operators. They are counted while the model runs, below autograd, so any model
with any inputs can be measured without tracing.

Some papers add elementwise operations, as the counter ptflops does: see :attr:`Cost.elementwise`.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torchvision  # noqa: F401  (registers torch.ops.torchvision)
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, shape_wrapper

from ..layers import blur_pool

__all__ = ["Cost", "measure"]


@dataclass
class Cost:
    """Costs of one forward pass by module name ("" is the model); a module's include those of its children.

    A module that runs several times, as a head does on every level, counts each time, its parameters once.

    ``trainable`` are the parameters that are not frozen. ``elementwise`` has one operation for every output element of
    a bias, of an ``nn.ReLU`` or ``nn.ReLU6`` module and of a max pooling, and two for every element of a batch norm
    module that is not frozen. Other norms, functions such as ``F.relu``, sums and resizing are not in it.
    """

    parameters: Counter[str] = field(default_factory=Counter)
    trainable: Counter[str] = field(default_factory=Counter)
    multiply_adds: Counter[str] = field(default_factory=Counter)
    elementwise: Counter[str] = field(default_factory=Counter)
    activations: Counter[str] = field(default_factory=Counter)
    kinds: dict[str, str] = field(default_factory=dict)

    def operations(self, name: str = "") -> int:
        """Return multiply-adds and elementwise operations, which is what ptflops gives."""
        return self.multiply_adds[name] + self.elementwise[name]

    def table(self, depth: int) -> list[tuple[str, str, int, int, int]]:
        """Return rows (name, class, parameters, multiply-adds, activations) of modules up to ``depth`` names deep."""
        rows = []
        for name, kind in self.kinds.items():
            if name.count(".") + bool(name) <= depth:
                rows.append((name, kind, self.parameters[name], self.multiply_adds[name], self.activations[name]))
        return rows


def measure(model: nn.Module, inputs: Sequence[Any]) -> Cost:
    """Run ``model(*inputs)`` once in evaluation mode and count. The model's mode is put back afterwards."""
    cost = Cost(kinds={name: type(module).__name__ for name, module in model.named_modules()})
    for name, parameter in model.named_parameters():
        for owner in _owners(name.rpartition(".")[0]):
            cost.parameters[owner] += parameter.numel()
            cost.trainable[owner] += parameter.numel() * parameter.requires_grad
    stack: list[str] = [""]
    hooks = []
    for name, module in model.named_modules():
        hooks.append(module.register_forward_pre_hook(_push(stack, name)))
        hooks.append(module.register_forward_hook(_pop(stack, cost), always_call=True))
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad(), _Counting(stack, cost) as counting, _uncounted_blur(counting):
            model(*inputs)
    finally:
        model.train(was_training)
        for hook in hooks:
            hook.remove()
    return cost


@contextmanager
def _uncounted_blur(counting: "_Counting") -> Iterator[None]:
    """Leave the convolution in the blur's reference out, as the compiled blur is: fixed weights are no model's cost."""
    reference = blur_pool.blur_pool_reference

    def uncounted(*args, **kwargs):
        counting.paused = True
        try:
            return reference(*args, **kwargs)
        finally:
            counting.paused = False

    blur_pool.blur_pool_reference = uncounted
    try:
        yield
    finally:
        blur_pool.blur_pool_reference = reference


def _owners(name: str) -> list[str]:
    """Return a module and all modules around it: "a.b" -> ["", "a", "a.b"]."""
    parts = name.split(".") if name else []
    return [".".join(parts[:i]) for i in range(len(parts) + 1)]


def _push(stack: list[str], name: str) -> Callable:
    return lambda module, args: stack.append(name)


def _pop(stack: list[str], cost: Cost) -> Callable:
    def pop(module, args, output):
        name, count = stack.pop(), _operations_per_element(module)
        for owner in _owners(name) if count else ():
            cost.elementwise[owner] += count * output.numel()

    return pop


def _operations_per_element(module: nn.Module) -> int:
    """Return what a module does to every element, biases of convolutions aside, which not all modules add."""
    if isinstance(module, _BatchNorm):
        return 2 if module.affine else 1
    return int(isinstance(module, (nn.ReLU, nn.ReLU6)) or isinstance(module, nn.Linear) and module.bias is not None)


def _deform_flops(input_shape, weight_shape, *args, out_shape=None, **kwargs) -> int:
    """Return the floating-point operations of torchvision's deformable convolution, without its sampling."""
    n, out_channels, height, width = out_shape
    return 2 * n * out_channels * height * width * weight_shape[1] * weight_shape[2] * weight_shape[3]


def _dr1_flops(x, before, weight, *args, out_shape=None, **kwargs) -> int:
    """Floating-point operations of the convolution in a dynamic rank-1 convolution."""
    n, out_channels, height, width = out_shape[0]
    return 2 * n * out_channels * height * width * x[1] * weight[2] * weight[3]


def _factored_flops(bases, t, sigma, u, *args, **kwargs) -> int:
    """Floating-point operations of the two products in a factored blend: the projection, and the attentions."""
    (count, num_bases, channels), (_, rank, size) = t, u
    # A sum of one term is no matrix product.
    return 2 * count * num_bases * sum(n for n in (channels, rank) if n > 1) * size * size


# Where convolutions have their bias among their arguments.
_BIAS = {torch.ops.aten.convolution: 2, torch.ops.torchvision.deform_conv2d: 4}


class _Counting(TorchDispatchMode):
    """Adds what each operator costs to the module that runs, the last on ``stack``, and to all around it."""

    def __init__(self, stack: list[str], cost: Cost):
        super().__init__()
        self.stack, self.cost = stack, cost
        self.paused = False
        self.formulas = dict(flop_registry)
        self.formulas[torch.ops.torchvision.deform_conv2d] = shape_wrapper(_deform_flops)
        # The compiled operators count as what they replace: their references' convolutions and products.
        for name, formula in (("dr1_conv", _dr1_flops), ("blend_factored", _factored_flops)):
            if hasattr(torch.ops.adet_ext, name):
                self.formulas[getattr(torch.ops.adet_ext, name)] = shape_wrapper(formula)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if self.paused:
            return func(*args, **kwargs)
        formula = self.formulas.get(func._overloadpacket)
        if func._overloadpacket is torch.ops.aten.max_pool2d_with_indices:
            out = func(*args, **kwargs)
            self._add_elementwise(out[0].numel())
            return out
        if formula is None:
            # In inference mode compound operators arrive undivided, and only their parts have formulas.
            if func is not torch.ops.prim.device.default:
                with self:
                    parts = func.decompose(*args, **kwargs)
                if parts is not NotImplemented:
                    return parts
            return func(*args, **kwargs)
        out = func(*args, **kwargs)
        flops = formula(*args, **kwargs, out_val=out)
        size = self._activations(func, args, out)
        for owner in _owners(self.stack[-1]):
            self.cost.multiply_adds[owner] += flops // 2
            self.cost.activations[owner] += size
        bias = _BIAS.get(func._overloadpacket)
        # A folded norm's bias, and the zeros that torchvision makes where there is none, are no parameters.
        if bias is not None and isinstance(args[bias], nn.Parameter):
            self._add_elementwise(out.numel())
        return out

    def _add_elementwise(self, count: int) -> None:
        for owner in _owners(self.stack[-1]):
            self.cost.elementwise[owner] += count

    def _activations(self, func, args, out) -> int:
        if func._overloadpacket is getattr(torch.ops.adet_ext, "blend_factored", None):
            products = (args[1].shape[2] > 1) + (args[2].shape[2] > 1)
            return products * args[1].shape[1] * out.numel()  # K maps for each
        if func._overloadpacket is getattr(torch.ops.adet_ext, "dr1_conv", None):
            out = out[0]  # the second result is for the gradient
        return out.numel() if isinstance(out, torch.Tensor) else 0

"""The controller's network: an LSTM that is fed with its own output, and a linear layer for each decision.

D decisions, W warm-up steps, S = W + D steps, L layers of the LSTM, H hidden units, R rows of all linear layers
together, C choices of the decision that has most, P parameters.

The sampled tokens are not fed back, so that one pass over the S steps gives the distributions of all decisions and of
all architectures, and a batch costs as much as one architecture. The forward and backward passes over the steps are
written out: they are matrix times vector, S * L times in a row, and autograd's bookkeeping would cost four times the
arithmetic. A controller that learns from a hundred architectures one by one after every new one can afford neither.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .space import Decision

__all__ = ["Policy"]

_NO_CHOICE = -1e9  # the logit where a decision has fewer than C choices; finite, so that 0 * it is 0


class Policy(nn.Module):
    """Distributions over the choices of every decision.

    Step s reads the output of step s - 1; step 0 reads a learned start vector. The first W steps are not used. Each
    decision of one of ``own_layers`` has a linear layer of its own; the other decisions share one for each kind and
    number of choices.

    Args:
        init_range: every weight, bias and the start vector are drawn uniformly from -init_range to init_range.
    """

    def __init__(
        self,
        decisions: Sequence[Decision],
        *,
        hidden: int = 100,
        layers: int = 2,
        init_range: float = 0.1,
        warmup_steps: int = 0,
        own_layers: Sequence[str] = ("location",),
        seed: int = 0,
    ):
        super().__init__()
        self.hidden, self.layers, self.warmup_steps = hidden, layers, warmup_steps
        steps = warmup_steps + len(decisions)
        rows, self.rows = _rows(decisions, own_layers)
        self.register_buffer("columns", rows.clamp(min=0), persistent=False)  # D x C
        self.register_buffer("no_choice", rows < 0, persistent=False)  # D x C
        count = self._views(None)
        generator = torch.Generator().manual_seed(seed)
        # One vector, so that a step of the optimiser and the norm of the gradient are one operation each.
        self.weights = nn.Parameter((torch.rand(count, generator=generator) * 2 - 1) * init_range)  # P
        self._space = _Workspace(steps, layers, hidden)

    def forward(self) -> Tensor:
        """Return the logarithms of the probabilities, D x C; where a decision has fewer choices they are about -1e9."""
        logits = _Unroll.apply(self.weights, self)  # D x R
        logits = logits.gather(1, self.columns).masked_fill(self.no_choice, _NO_CHOICE)  # D x C
        return logits.log_softmax(1)

    def named_views(self) -> dict[str, Tensor]:
        """Return the parts of the parameter vector by their names; they share its memory.

        start H; for layer l, weight.l 4H x 2H (for the input, then for the layer's own last output), bias_input.l and
        bias_hidden.l 4H, gates in the order output, input, forget, cell; linear R x H and linear_bias R.
        """
        return self._views(self.weights.detach())

    def _views(self, flat: Tensor | None) -> dict[str, Tensor] | int:
        h = self.hidden
        shapes = {"start": (h,)}
        for layer in range(self.layers):
            shapes[f"weight.{layer}"] = (4 * h, 2 * h)
            shapes[f"bias_input.{layer}"] = shapes[f"bias_hidden.{layer}"] = (4 * h,)
        shapes |= {"linear": (self.rows, h), "linear_bias": (self.rows,)}
        sizes = [torch.Size(shape).numel() for shape in shapes.values()]
        if flat is None:
            return sum(sizes)
        return {name: part.view(shapes[name]) for name, part in zip(shapes, flat.split(sizes))}


def _rows(decisions: Sequence[Decision], own_layers: Sequence[str]) -> tuple[Tensor, int]:
    """Return the row of the linear layers behind each choice, D x C with -1 for none, and the number of rows."""
    starts, total = {}, 0
    rows = torch.full((len(decisions), max(len(d.choices) for d in decisions)), -1, dtype=torch.long)
    for index, decision in enumerate(decisions):
        count = len(decision.choices)
        key = index if decision.kind in own_layers else (decision.kind, count)
        if key not in starts:
            starts[key], total = total, total + count
        rows[index, :count] = torch.arange(starts[key], starts[key] + count)
    return rows, total


class _Workspace:
    """The memory of one pass, with every view that it needs made once: making a view costs as much as using it."""

    def __init__(self, steps: int, layers: int, hidden: int):
        h, self.steps, self.passes = hidden, steps, 0
        self.inputs = torch.zeros(layers, steps + 1, 2 * h)  # input of the layer, its output one step before
        self.gates = torch.zeros(layers, steps, 4 * h)  # output, input, forget: sigmoid; cell: tanh
        self.cells = torch.zeros(layers, steps + 1, h)
        self.outputs = torch.zeros(steps, h)  # of the last layer
        self.d_gates = torch.zeros(layers, steps, 4 * h)
        self.d_inputs = torch.zeros(layers, 2 * h)
        self.into = [[self._into(layer, step, h) for layer in range(layers)] for step in range(steps)]
        self.back = [[self._back(layer, step, h) for layer in range(layers)] for step in range(steps)]

    def _into(self, layer: int, step: int, h: int) -> tuple[Tensor, ...]:
        gates = self.gates[layer, step]
        o, i, f, g = gates.split(h)
        above = self.inputs[layer + 1, step] if layer + 1 < len(self.inputs) else self.inputs[0, step + 1]
        cell, before = self.cells[layer, step + 1], self.cells[layer, step]
        own = self.inputs[layer, step + 1, h:]
        return self.inputs[layer, step], gates, gates[: 3 * h], g, i, f, o, before, cell, own, above[:h]

    def _back(self, layer: int, step: int, h: int) -> tuple[Tensor, ...]:
        d_gates = self.d_gates[layer, step]
        return d_gates, d_gates[:h], d_gates[h:].view(3, h), self.gates[layer, step, 2 * h : 3 * h]


class _Unroll(torch.autograd.Function):
    """The LSTM over all steps, and all linear layers on the outputs of the last D steps: P weights to D x R logits."""

    @staticmethod
    def forward(ctx, weights: Tensor, policy: Policy) -> Tensor:
        space, views, layers = policy._space, policy._views(weights), range(policy.layers)
        space.passes += 1
        ctx.policy, ctx.passes = policy, space.passes
        ctx.save_for_backward(weights)
        matrices = [views[f"weight.{layer}"] for layer in layers]
        biases = [views[f"bias_input.{layer}"] + views[f"bias_hidden.{layer}"] for layer in layers]
        h = policy.hidden
        space.inputs[0, 0, :h] = views["start"]
        for step in space.into:
            for layer in layers:
                x, gates, sigmoids, g, i, f, o, before, cell, own, above = step[layer]
                torch.addmv(biases[layer], matrices[layer], x, out=gates)
                sigmoids.sigmoid_()
                g.tanh_()
                torch.mul(f, before, out=cell).addcmul_(i, g)
                torch.mul(o, cell.tanh(), out=own)
                above.copy_(own)
        space.outputs.copy_(space.inputs[-1, 1:, h:])
        return torch.addmm(views["linear_bias"], space.outputs[policy.warmup_steps :], views["linear"].t())  # D x R

    @staticmethod
    def backward(ctx, d_logits: Tensor) -> tuple[Tensor, None]:
        policy, (weights,) = ctx.policy, ctx.saved_tensors
        space, views, layers, h = policy._space, policy._views(weights), range(policy.layers), policy.hidden
        if space.passes != ctx.passes:
            raise RuntimeError("a policy must be run backward before it is run forward again")
        gradient = torch.empty_like(weights)  # P
        into = policy._views(gradient)
        torch.mm(d_logits.t(), space.outputs[policy.warmup_steps :], out=into["linear"])  # R x H
        torch.sum(d_logits, 0, out=into["linear_bias"])
        d_outputs = torch.zeros_like(space.outputs)  # S x H
        torch.mm(d_logits, views["linear"], out=d_outputs[policy.warmup_steps :])
        into["start"].copy_(_back_through_time(space, [views[f"weight.{layer}"].t() for layer in layers], d_outputs, h))
        for layer in layers:
            d_gates = space.d_gates[layer]  # S x 4H
            torch.mm(d_gates.t(), space.inputs[layer, :-1], out=into[f"weight.{layer}"])  # 4H x 2H
            torch.sum(d_gates, 0, out=into[f"bias_input.{layer}"])
            into[f"bias_hidden.{layer}"].copy_(into[f"bias_input.{layer}"])
        return gradient, None


def _back_through_time(space: _Workspace, transposed: list[Tensor], d_outputs: Tensor, h: int) -> Tensor:
    """Fill ``space.d_gates`` with the gradient before the gates' functions; return that of the start vector, H."""
    layers = range(len(transposed))
    o, i, f, g = space.gates.split(h, 2)  # each L x S x H
    tanh_cells = torch.tanh(space.cells[:, 1:])
    to_output = (tanh_cells * o * (1 - o)).unbind(1)  # S times L x H, as all below
    to_cell = (o * (1 - tanh_cells.square())).unbind(1)
    to_rest = torch.stack([g * i * (1 - i), space.cells[:, :-1] * f * (1 - f), i * (1 - g.square())], 2).unbind(1)
    d_hidden = [torch.zeros(h) for _ in layers]
    d_cells = [torch.zeros(h) for _ in layers]
    into = [(d, d[:h], d[h:]) for d in space.d_inputs]
    d_fed = torch.zeros(h)
    for step in reversed(range(space.steps)):
        d_above = d_outputs[step].add_(d_fed)
        for layer in reversed(layers):
            d_gates, d_output_gate, d_rest, forget = space.back[step][layer]
            d_input, d_below, d_before = into[layer]
            d = d_above + d_hidden[layer]
            d_cell = d_cells[layer].addcmul_(d, to_cell[step][layer])
            torch.mul(d, to_output[step][layer], out=d_output_gate)
            torch.mul(d_cell, to_rest[step][layer], out=d_rest)
            d_cell.mul_(forget)
            torch.mv(transposed[layer], d_gates, out=d_input)
            d_hidden[layer], d_above = d_before, d_below
        d_fed = d_above
    return d_fed

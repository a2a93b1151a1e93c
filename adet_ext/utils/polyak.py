"""Polyak averaging: a moving average of a network's weights, which is evaluated in their place."""

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from ..errors import UserError

__all__ = ["PolyakAverage"]


class PolyakAverage:
    """The moving average of a module's parameters, w <- decay * w + (1 - decay) * parameter.

    The average starts as the parameters are when this is made. Parameters that need no gradient are left alone, so
    that a frozen backbone costs nothing. The module itself holds the average within :meth:`applied`::

        average = PolyakAverage(model)
        for batch in batches:
            train(model, batch)
            average.update()
        with average.applied():
            evaluate(model)

    Args:
        decay: 0.9 in thesis 7.4.1.
        buffers: what becomes of the buffers, such as the statistics of batch normalisation. "keep": the average is
            evaluated with the buffers of the module as they are; they are moving averages already. "average": those of
            floating point are averaged too, others kept.

    Raises:
        UserError: a decay out of range, or another word for ``buffers``.
    """

    def __init__(self, module: nn.Module, decay: float = 0.9, buffers: str = "keep"):
        if not isinstance(decay, int | float) or not 0 <= decay < 1:
            raise UserError(f"decay must be a number from 0 to below 1; got {decay!r}. Correct it.")
        if buffers not in ("keep", "average"):
            raise UserError(f"buffers must be keep or average; got {buffers!r}. Name one of them.")
        self.decay, self.updates, self._held = decay, 0, None
        live = {name: p.detach() for name, p in module.named_parameters() if p.requires_grad}
        self._parameters, self._buffers = list(live.values()), []
        if buffers == "average":
            found = {name: b.detach() for name, b in module.named_buffers() if b.is_floating_point()}
            self._buffers, live = list(found), live | found
        self._module = module
        self.average = {name: tensor.clone() for name, tensor in live.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights as they are now; after every step of the optimiser."""
        if self._held is not None:
            raise RuntimeError("the average is in the module; restore its own weights before the next update")
        torch._foreach_lerp_(list(self.average.values()), self._live(), 1 - self.decay)
        self.updates += 1

    @torch.no_grad()
    def swap_in(self) -> None:
        """Put the average into the module and hold its own weights until :meth:`restore`."""
        if self._held is not None:
            raise RuntimeError("the average is in the module already")
        live = self._live()
        self._held = [tensor.clone() for tensor in live]
        torch._foreach_copy_(live, list(self.average.values()))

    @torch.no_grad()
    def restore(self) -> None:
        """Put the module's own weights back, bit for bit."""
        if self._held is None:
            raise RuntimeError("the module has its own weights already")
        torch._foreach_copy_(self._live(), self._held)
        self._held = None

    @contextlib.contextmanager
    def applied(self) -> Iterator[nn.Module]:
        """A context in which the module holds the average; its own weights come back also after an error."""
        self.swap_in()
        try:
            yield self._module
        finally:
            self.restore()

    def state_dict(self) -> dict:
        average = {name: tensor.clone() for name, tensor in self.average.items()}
        return {"decay": self.decay, "updates": self.updates, "average": average}

    @torch.no_grad()
    def load_state_dict(self, state: dict) -> None:
        """Take over an average of the same module; the decay too.

        Raises:
            UserError: the names or shapes are not those of this module.
        """
        have = {name: tuple(tensor.shape) for name, tensor in state["average"].items()}
        need = {name: tuple(tensor.shape) for name, tensor in self.average.items()}
        if have != need:
            wrong = sorted(name for name in have.keys() | need.keys() if have.get(name) != need.get(name))
            raise UserError(f"The state of a Polyak average must have the module's tensors; {wrong[0]} differs.")
        self.decay, self.updates = state["decay"], state["updates"]
        for name, tensor in self.average.items():
            tensor.copy_(state["average"][name])

    def _live(self) -> list[Tensor]:
        if not self._buffers:
            return self._parameters
        # Looked up each time: code that trains a module may put other tensors in the places of its buffers.
        live = dict(self._module.named_buffers())
        return self._parameters + [live[name].detach() for name in self._buffers]

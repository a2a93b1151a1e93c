"""The controller: an LSTM policy that proximal policy optimisation (PPO) trains on the rewards.

Thesis 7.3.3 and 6.4.1 name the method, the two layers, the hundred hidden units, the uniform initialisation and the
learning rate of 1e-4 (6.4.1). The other constants are those of nas-segm-pytorch, the public code of the search that
both chapters build on (thesis reference 4); they stand at the keywords of :class:`Controller`.
"""

import contextlib
import copy
import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from ..errors import UserError
from .policy import Policy
from .reward import MovingBaseline
from .samplers import accepted, check_number, check_whole, draws
from .space import Space

__all__ = ["Controller"]

_LARGEST_LOG_RATIO = 20.0  # keeps exp finite; ratios this far out are clipped, or worth no more trust


class Controller:
    """Samples token lists from a policy and trains it after every one of them.

    After each told architecture the policy runs ``epochs`` times, in random order, over the last ``buffer_size``
    architectures in mini-batches of ``batch_size``. The loss of an architecture with the advantage A = its reward
    minus the moving baseline of now is -min(r A, clamp(r, 1 - clip, 1 + clip) A), where r is its probability now over
    that when it was drawn. Advantages are not normalised. Sampling is by the plain softmax, without a temperature.

    A proposal that the space rejects is drawn again, 200 times at most. An architecture without a reward (rejected,
    failed, or a reward that is not finite) counts as the worst that is in the buffer, and the baseline is left as it
    is: the policy learns to avoid what cannot be evaluated, however the rewards are scaled. With an empty buffer it is
    passed over. ``learn_failures=False`` passes over all of them.

    A mini-batch of one costs a pass over the decisions, forward and backward; hundred of them are the cost of an
    architecture. Larger batches are cheaper in proportion, and learn less from each architecture at the same rate.

    Args:
        hidden, layers: of the LSTM; 100 and 2 in thesis 6.4.1.
        init_range: all weights are uniform in +-0.1 (nas-segm-pytorch; thesis 6.4.1 says uniform).
        warmup_steps: steps of the LSTM before the first decision; as many as there are encoder outputs in
            nas-segm-pytorch, for which a space says its own number.
        own_layers: the kinds whose decisions have a linear layer each; the locations in nas-segm-pytorch.
        learning_rate: of Adam; 1e-4 in thesis 6.4.1.
        clip, epochs, buffer_size, batch_size: 0.1, 1, 100 and 1 in nas-segm-pytorch.
        entropy_coefficient: weight of the entropy in the objective; 0 in nas-segm-pytorch.
        max_grad_norm: 2.0 in nas-segm-pytorch.
        baseline_decay: 0.95 in nas-segm-pytorch.
        zero_filled_buffer: begin, as nas-segm-pytorch does, with a buffer full of architectures of zeros with the
            log-probability 0 and the reward 0, which stay until they are pushed out. They were never drawn: they
            add steps of Adam without a gradient of their own, a hundred after the first architecture, which carry
            the policy on along its first noisy directions; where rewards are negative they even count as good. Off,
            because rewards of minus a loss are used here.
        learn_failures: see above.
    """

    def __init__(
        self,
        space: Space,
        seed: int,
        *,
        hidden: int = 100,
        layers: int = 2,
        init_range: float = 0.1,
        warmup_steps: int = 0,
        own_layers: Sequence[str] = ("location",),
        learning_rate: float = 1e-4,
        clip: float = 0.1,
        epochs: int = 1,
        buffer_size: int = 100,
        batch_size: int = 1,
        entropy_coefficient: float = 0.0,
        max_grad_norm: float = 2.0,
        baseline_decay: float = 0.95,
        zero_filled_buffer: bool = False,
        learn_failures: bool = True,
    ):
        self.space, self.seed, self.asked, self.told = space, check_whole("seed", seed, 0), 0, 0
        if isinstance(own_layers, str) or not all(isinstance(kind, str) for kind in own_layers):
            raise UserError(f"own_layers must be a list of kinds; got {own_layers!r}. Correct it.")
        self.policy = Policy(
            space.decisions,
            hidden=check_whole("hidden", hidden, 1),
            layers=check_whole("layers", layers, 1),
            init_range=check_number("init_range", init_range, 0),
            warmup_steps=check_whole("warmup_steps", warmup_steps, 0),
            own_layers=own_layers,
            seed=seed,
        )
        learning_rate = check_number("learning_rate", learning_rate, 0)
        self.optimizer = torch.optim.Adam(self.policy.parameters(), lr=learning_rate, fused=True)
        self.clip = check_number("clip", clip, 0, 1)
        self.epochs = check_whole("epochs", epochs, 1)
        self.buffer_size = check_whole("buffer_size", buffer_size, 1)
        self.batch_size = check_whole("batch_size", batch_size, 1)
        self.entropy_coefficient = check_number("entropy_coefficient", entropy_coefficient, 0)
        self.max_grad_norm = check_number("max_grad_norm", max_grad_norm, 0)
        self.baseline = MovingBaseline(check_number("baseline_decay", baseline_decay, 0, 0.999999))
        self.learn_failures = bool(learn_failures)
        # Tokens, log-probability when drawn, reward; the oldest first.
        zeros = ((0,) * len(space), 0.0, 0.0)
        self.buffer = [zeros] * self.buffer_size if zero_filled_buffer else []
        self._pending: list[tuple[tuple[int, ...], float]] = []  # asked, not told: tokens, log-probability when drawn

    def ask(self, n: int) -> list[tuple[int, ...]]:
        table = self._table()
        probabilities = [[math.exp(value) for value in row] for row in table]
        start, self.asked = self.asked, self.asked + n
        proposals = []
        for index in range(start, self.asked):
            source = draws("controller", self.seed, index)
            proposals.append(accepted(self.space, lambda source=source: _draw(probabilities, source)))
        self._pending += [(tokens, _log_probability(table, tokens)) for tokens in proposals]
        return proposals

    def tell(self, results: Sequence[tuple[tuple[int, ...], float | None]]) -> None:
        """Learn from rewards; see :class:`Controller`.

        What was not asked for counts as drawn from the policy as it is at this call.
        """
        table, drawn = None, []
        for tokens, reward in results:
            tokens = self.space.check(tokens)
            at = next((index for index, pending in enumerate(self._pending) if pending[0] == tokens), None)
            if at is None and table is None:
                table = self._table()
            log_probability = _log_probability(table, tokens) if at is None else self._pending.pop(at)[1]
            drawn.append((tokens, log_probability, reward))
        for tokens, log_probability, reward in drawn:
            self.told += 1
            self._learn(tokens, log_probability, reward)
        self.asked = max(self.asked, self.told)

    def probabilities(self) -> list[list[float]]:
        """Return the probability of each choice of each decision."""
        counts = [len(decision.choices) for decision in self.space.decisions]
        return [[math.exp(value) for value in row[:count]] for row, count in zip(self._table(), counts)]

    def state_dict(self) -> dict:
        return {
            "seed": self.seed,
            "asked": self.asked,
            "told": self.told,
            "weights": self.policy.weights.detach().clone(),
            "optimizer": copy.deepcopy(self.optimizer.state_dict()),
            "baseline": self.baseline.state_dict(),
            "buffer": [[list(tokens), log_probability, reward] for tokens, log_probability, reward in self.buffer],
            "pending": [[list(tokens), log_probability] for tokens, log_probability in self._pending],
        }

    def load_state_dict(self, state: dict) -> None:
        have, need = state["weights"].numel(), self.policy.weights.numel()
        if have != need:
            raise UserError(
                f"The controller's state must have {need} weights, as its space and settings ask for; got {have}. "
                "Use the space and the settings that it was saved with."
            )
        self.seed, self.asked, self.told = state["seed"], state["asked"], state["told"]
        with torch.no_grad():
            self.policy.weights.copy_(state["weights"])
        self.optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))  # it would go on in the given tensors
        self.baseline.load_state_dict(state["baseline"])
        self.buffer = [(tuple(tokens), log_probability, reward) for tokens, log_probability, reward in state["buffer"]]
        self._pending = [(tuple(tokens), log_probability) for tokens, log_probability in state["pending"]]

    # Learning -------------------------------------------------------------------------------------------------------

    def _learn(self, tokens: tuple[int, ...], log_probability: float, reward: float | None) -> None:
        if reward is None or not math.isfinite(reward):
            if not self.learn_failures or self.baseline.value is None:
                return
            reward = min(reward for *_, reward in self.buffer)
        else:
            self.baseline.update(reward)
        self.buffer = [*self.buffer, (tokens, log_probability, float(reward))][-self.buffer_size :]
        lists, log_probabilities, rewards = zip(*self.buffer)
        lists, before = torch.tensor(lists), torch.tensor(log_probabilities)  # N x D, N
        advantages = torch.tensor([reward - self.baseline.value for reward in rewards])  # N
        source = draws("controller", self.seed, self.told, "order")
        with _one_thread():
            for _ in range(self.epochs):
                order = source.sample(range(len(rewards)), len(rewards))
                for start in range(0, len(order), self.batch_size):
                    batch = torch.tensor(order[start : start + self.batch_size])
                    self._step(lists[batch], before[batch], advantages[batch])

    def _step(self, lists: Tensor, before: Tensor, advantages: Tensor) -> None:
        """Take a step of Adam on B architectures: tokens B x D, log-probabilities when drawn B, advantages B."""
        table = self.policy()  # D x C
        now = table.gather(1, lists.t()).sum(0)  # B
        ratio = (now - before).clamp(-_LARGEST_LOG_RATIO, _LARGEST_LOG_RATIO).exp()
        clipped = ratio.clamp(1 - self.clip, 1 + self.clip)
        gain = torch.min(ratio * advantages, clipped * advantages)
        moves = (advantages != 0) & ((ratio == clipped) | (ratio * advantages < clipped * advantages))
        if self.entropy_coefficient or bool(moves.any()):
            loss = -gain.mean()
            if self.entropy_coefficient:
                loss = loss + self.entropy_coefficient * (table.exp() * table).sum()  # minus the entropy
            self.policy.weights.grad = None
            loss.backward()
            nn.utils.clip_grad_norm_(self.policy.parameters(), self.max_grad_norm)
        else:  # The gradient is zero, as the backward pass would find; Adam still moves by its momentum.
            self.policy.weights.grad = torch.zeros_like(self.policy.weights)
        self.optimizer.step()

    def _table(self) -> list[list[float]]:
        with torch.no_grad(), _one_thread():
            return self.policy().tolist()


def _draw(probabilities: list[list[float]], source) -> tuple[int, ...]:
    return tuple(source.choices(range(len(row)), row)[0] for row in probabilities)


def _log_probability(table: list[list[float]], tokens: tuple[int, ...]) -> float:
    return math.fsum(row[token] for row, token in zip(table, tokens))


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Use one thread: more gain nothing on vectors this small, and their number would change the last bits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)

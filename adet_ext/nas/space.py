"""Spaces of architectures: a list of categorical decisions, and token lists that take them.

D is the number of decisions. A token list is D whole numbers; token d is an index into the choices of decision d.
"""

import dataclasses
import json
import math
import operator
from collections.abc import Sequence
from typing import Any

from ..errors import UserError

__all__ = ["Decision", "Space"]


@dataclasses.dataclass(frozen=True)
class Decision:
    """One categorical decision.

    Attributes:
        name: unique in its space, such as "block0.op1".
        kind: "location", "operation", "aggregation", ... The decisions of a kind share a layer of a learned policy
            where they have equally many choices, and charts put them together.
        choices: what there is to choose from, in the order of the tokens. The choices of a location grow with the pool
            that it points into: later decisions have more of them.
    """

    name: str
    kind: str
    choices: tuple[str, ...]


class Space:
    """Architectures as token lists.

    A project makes a subclass and overrides :meth:`canonical`, :meth:`why_rejected` and :meth:`graph`.

    Args:
        name: is written into journals and files of architectures.
        decisions: at least one, each with at least one choice.

    Raises:
        ValueError: two decisions of a name, a decision without choices or with a choice twice.
    """

    def __init__(self, name: str, decisions: Sequence[Decision]):
        self.name = name
        self.decisions = tuple(decisions)
        if not self.decisions:
            raise ValueError(f"space {name} must have a decision")
        names = [decision.name for decision in self.decisions]
        if len(set(names)) < len(names):
            raise ValueError(f"decisions of space {name} must have names of their own; got {names}")
        for decision in self.decisions:
            if not decision.choices or len(set(decision.choices)) < len(decision.choices):
                raise ValueError(f"decision {decision.name} must have choices, each once; got {decision.choices}")

    def __len__(self) -> int:
        return len(self.decisions)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}, {len(self)} decisions, {self.size():.3g} token lists)"

    # What a project overrides ---------------------------------------------------------------------------------------

    def canonical(self, tokens: Sequence[int]) -> tuple[int, ...]:
        """Return one token list for all that build the same network. Here: the tokens as they are."""
        return self.check(tokens)

    def why_rejected(self, tokens: Sequence[int]) -> str:
        """Return why nothing is to be spent on this architecture; "" where it is to be evaluated. Here: ""."""
        self.check(tokens)
        return ""

    def graph(self, tokens: Sequence[int]) -> dict:
        """Return the architecture for a drawing, ready for JSON.

        ``{"nodes": [[id, label], ...], "edges": [[from id, to id, label], ...]}``; here an empty dict: no drawing.
        """
        self.check(tokens)
        return {}

    # Tokens and choices ---------------------------------------------------------------------------------------------

    def check(self, tokens: Sequence[int]) -> tuple[int, ...]:
        """Return the tokens as a tuple of int.

        Raises:
            UserError: a wrong number of tokens, or one that is no whole number or out of range; names the decision.
        """
        if isinstance(tokens, str | bytes) or not hasattr(tokens, "__len__"):
            raise UserError(f"{self._what} must be a list of {len(self)} whole numbers; got {tokens!r}.")
        if len(tokens) != len(self):
            raise UserError(f"{self._what} must have {len(self)} tokens, one per decision; got {len(tokens)}.")
        return tuple(self._token(decision, token) for decision, token in zip(self.decisions, tokens))

    def _token(self, decision: Decision, token: Any) -> int:
        count = len(decision.choices)
        try:
            whole = operator.index(token)
        except TypeError:
            whole = -1
        if isinstance(token, bool) or not 0 <= whole < count:
            raise UserError(
                f"Token {decision.name} of {self._what} must be a whole number from 0 to {count - 1}; got {token!r}."
            )
        return whole

    def encode(self, choices: Sequence[str]) -> tuple[int, ...]:
        """Return the tokens of one choice per decision; the inverse of :meth:`decode`.

        Raises:
            UserError: a wrong number of choices, or one that its decision does not have; names the decision.
        """
        if isinstance(choices, str) or len(choices) != len(self):
            count = 1 if isinstance(choices, str) else len(choices)
            raise UserError(f"{self._what} must have {len(self)} choices, one per decision; got {count}.")
        for decision, choice in zip(self.decisions, choices):
            if choice not in decision.choices:
                have = ", ".join(decision.choices)
                raise UserError(f"Choice {decision.name} of {self._what} must be one of {have}; got {choice!r}.")
        return tuple(decision.choices.index(choice) for decision, choice in zip(self.decisions, choices))

    def decode(self, tokens: Sequence[int]) -> tuple[str, ...]:
        """Return the choice that each token stands for."""
        return tuple(decision.choices[token] for decision, token in zip(self.decisions, self.check(tokens)))

    def text(self, tokens: Sequence[int]) -> str:
        """Return the architecture as one printable line."""
        return " ".join(f"{d.name}={choice}" for d, choice in zip(self.decisions, self.decode(tokens)))

    def size(self) -> int:
        """Return the number of token lists, of which several may build the same network."""
        return math.prod(len(decision.choices) for decision in self.decisions)

    # JSON -----------------------------------------------------------------------------------------------------------

    def to_json(self) -> dict:
        """Return name and decisions, ready for JSON."""
        decisions = [{"name": d.name, "kind": d.kind, "choices": list(d.choices)} for d in self.decisions]
        return {"name": self.name, "decisions": decisions}

    @staticmethod
    def from_json(value: dict) -> "Space":
        """Return a plain :class:`Space` with name and decisions of :meth:`to_json`.

        It checks, decodes and counts as the original does. What a subclass overrides is not in JSON.

        Raises:
            UserError: ``value`` is not what :meth:`to_json` gives.
        """
        try:
            decisions = [Decision(str(d["name"]), str(d["kind"]), tuple(d["choices"])) for d in value["decisions"]]
            return Space(str(value["name"]), decisions)
        except (KeyError, TypeError, ValueError) as error:
            wrong = f"{type(error).__name__}: {error}"
            raise UserError(f"A space must be JSON with a name and decisions; got {wrong}. Write it anew.") from error

    def dumps(self, tokens: Sequence[int]) -> str:
        """Return the architecture as JSON: ``{"space": name, "tokens": [...], "choices": {decision: choice}}``."""
        choices = {decision.name: choice for decision, choice in zip(self.decisions, self.decode(tokens))}
        return json.dumps({"space": self.name, "tokens": list(self.check(tokens)), "choices": choices}, indent=1) + "\n"

    def loads(self, text: str, where: str = "The architecture") -> tuple[int, ...]:
        """Return the tokens of what :meth:`dumps` gave. Tokens or choices may be missing, not both.

        Args:
            where: the file, for the error.

        Raises:
            UserError: no such JSON, another space, tokens or choices that do not fit it or each other.
        """
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{where} must be JSON; got {error}. Write it anew.") from error
        if not isinstance(value, dict) or not value.keys() & {"tokens", "choices"}:
            raise UserError(f"{where} must have tokens or choices. Write it as Space.dumps does.")
        if value.get("space", self.name) != self.name:
            raise UserError(f"{where} must be of space {self.name}; got one of {value['space']}. Name another file.")
        try:
            found = [self.check(value["tokens"])] if "tokens" in value else []
            found += [self._of_choices(value["choices"])] if "choices" in value else []
        except UserError as error:
            raise UserError(f"{where}: {error}") from error
        if found[0] != found[-1]:
            raise UserError(f"{where} must have tokens and choices that agree; got {value}. Remove one of them.")
        return found[0]

    def _of_choices(self, choices: Any) -> tuple[int, ...]:
        names = [decision.name for decision in self.decisions]
        if not isinstance(choices, dict) or set(choices) != set(names):
            raise UserError(f"{self._what} must have a choice for each of {', '.join(names)}; got {choices}.")
        return self.encode([choices[name] for name in names])

    @property
    def _what(self) -> str:
        return f"an architecture of {self.name}"

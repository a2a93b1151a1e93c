"""Random search: what every other sampler has to beat."""

from collections.abc import Sequence

from .samplers import accepted, check_whole, draws, uniform
from .space import Space

__all__ = ["RandomSearch"]


class RandomSearch:
    """Draws uniformly from the token lists that the space does not reject. It learns nothing."""

    def __init__(self, space: Space, seed: int):
        self.space, self.seed, self.asked, self.told = space, check_whole("seed", seed, 0), 0, 0

    def ask(self, n: int) -> list[tuple[int, ...]]:
        start, self.asked = self.asked, self.asked + n
        sources = [draws("random", self.seed, index) for index in range(start, self.asked)]
        return [accepted(self.space, lambda source=source: uniform(self.space, source)) for source in sources]

    def tell(self, results: Sequence[tuple[tuple[int, ...], float | None]]) -> None:
        """Do nothing but count."""
        self.told += len(results)
        self.asked = max(self.asked, self.told)

    def state_dict(self) -> dict:
        return {"seed": self.seed, "asked": self.asked, "told": self.told}

    def load_state_dict(self, state: dict) -> None:
        self.seed, self.asked, self.told = state["seed"], state["asked"], state["told"]

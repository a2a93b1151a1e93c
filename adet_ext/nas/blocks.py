"""Spaces of blocks: each takes two features of a pool, applies an operation to each, merges the results into the pool.

P features are in the pool before the first block. A row is five numbers: two inputs, two operations, an aggregation;
block t, counted from 0, gives the feature with number P + t.
"""

from collections.abc import Collection, Mapping, Sequence

from .space import Decision

__all__ = ["Row", "block_decisions", "rows_of", "smallest_order"]

Row = tuple[int, int, int, int, int]


def block_decisions(
    blocks: int, names: Sequence[str], operations: Sequence[str], aggregations: Sequence[str], word: str = "block"
) -> list[Decision]:
    """Return the five decisions of each block, in the order of a row.

    Args:
        names: of the features before the first block, then of what each block gives.
        word: what the names of the decisions begin with.
    """
    decisions = []
    for t in range(blocks):
        pool, where = tuple(names[: len(names) - blocks + t]), f"{word}{t + 1}"
        decisions += [Decision(f"{where}.input{i}", "location", pool) for i in (1, 2)]
        decisions += [Decision(f"{where}.operation{i}", "operation", tuple(operations)) for i in (1, 2)]
        decisions.append(Decision(f"{where}.aggregation", "aggregation", tuple(aggregations)))
    return decisions


def rows_of(tokens: Sequence[int]) -> list[Row]:
    """Return the rows of a token list."""
    return [tuple(tokens[start : start + 5]) for start in range(0, len(tokens), 5)]


def smallest_order(
    rows: Sequence[Row], pool: int, symmetric: Collection[int], after: Mapping[int, Collection[int]] | None = None
) -> list[Row]:
    """Return the rows of the same network in the order whose list of rows is smallest.

    Blocks can be built in another order as long as each comes after its inputs, and the two sides of an aggregation
    that treats them alike can be exchanged. Greedy, row by row; where several blocks have the smallest row, all of
    them are followed to the end.

    Args:
        pool: P.
        symmetric: the aggregations that treat their sides alike.
        after: further features that a block must come after, by the number of what it gives.
    """
    after = after or {}

    def rows_from(numbers: dict[int, int], found: list[Row]) -> list[Row]:
        candidates: dict[int, Row] = {}
        for t, (first, second, operation1, operation2, merge) in enumerate(rows):
            node = pool + t
            if node in numbers or not {first, second, *after.get(node, ())} <= numbers.keys():
                continue
            sides = [(numbers[first], operation1), (numbers[second], operation2)]
            (input1, operation1), (input2, operation2) = sorted(sides) if merge in symmetric else sides
            candidates[node] = (input1, input2, operation1, operation2, merge)
        if not candidates:
            return found
        smallest = min(candidates.values())
        ways = [node for node, row in candidates.items() if row == smallest]
        return min(rows_from({**numbers, node: len(numbers)}, [*found, smallest]) for node in ways)

    return rows_from({number: number for number in range(pool)}, [])

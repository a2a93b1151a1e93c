"""The operators' table as text."""

from collections.abc import Sequence

from ...utils.table import text_table
from .runner import Row

__all__ = ["render"]

HEAD = ["operator", "shape", "dtype", "device", "ours", "theirs", "ratio", "target", "holds", "copy", "ours", "theirs"]
UNITS = ["", "", "", "", "ms", "ms", "", "", "", "%", "MiB", "MiB"]
LEGEND = (
    "ratio: theirs / ours, the median of paired rounds; target: the least ratio aimed at; copy: the traffic that the "
    "result costs at least, in the time that ours takes, as a share of the speed of a large copy (above 100 %: from a "
    "cache); MiB: peak memory beyond the inputs"
)


def render(rows: Sequence[Row], footer: str) -> str:
    """The table, what each operator was compared with, and the footer; errors and disagreements by name."""
    table = [HEAD, UNITS, *(_cells(row) for row in rows)]
    lines = [text_table(table, heads=2, left=4), ""]
    for operator in dict.fromkeys(row.operator for row in rows):
        against = dict.fromkeys(row.baseline for row in rows if row.operator == operator)
        lines.append(f"{operator}: against {'; '.join(against)}")
    lines += ["", LEGEND, footer]
    for row in rows:
        name = f"{row.operator} {row.shape} {row.dtype}"
        if row.error:
            lines.append(f"failed: {name}: {row.error}")
        elif row.agrees is False:
            lines.append(f"results differ: {name}")
    return "\n".join(lines)


def _cells(row: Row) -> list[str]:
    first = [row.operator, row.shape, row.dtype, row.device]
    if row.error:
        return [*first, "failed", *[""] * 7]
    holds = {None: "", True: "yes", False: "no"}[row.holds]
    return [
        *first,
        _number(row.ours, 3),
        _number(row.theirs, 3),
        _number(row.ratio["median"], 2),
        _number(row.target, 2),
        holds,
        _number(row.copy_share * 100, 0),
        _number(None if row.our_peak is None else row.our_peak / 2**20, 1),
        _number(None if row.their_peak is None else row.their_peak / 2**20, 1),
    ]


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"

"""Tables as text."""

from collections.abc import Sequence

__all__ = ["text_table"]


def text_table(rows: Sequence[Sequence[str]], *, heads: int = 1, left: int = 1) -> str:
    """Return rows of cells as aligned lines, with a rule below the heads.

    Args:
        rows: of equal length.
        heads: how many of the first rows are heads.
        left: how many of the first columns are aligned left; the others are aligned right.
    """
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if i < left else cell.rjust(width) for i, (cell, width) in enumerate(zip(row, widths))
        ]
        lines.append("  ".join(cells).rstrip())
    lines.insert(heads, "-" * max(map(len, lines)))
    return "\n".join(lines)

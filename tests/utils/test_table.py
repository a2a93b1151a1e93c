"""Text tables and errors on one line."""

from adet_ext.errors import one_line
from adet_ext.utils.table import text_table


def test_columns_are_aligned_left_and_right_below_their_heads():
    rows = [["model", "ms"], ["", "unit"], ["a", "1.5"], ["longer", "20.0"]]
    assert text_table(rows, heads=2).splitlines() == [
        "model     ms",
        "        unit",
        "------------",
        "a        1.5",
        "longer  20.0",
    ]
    assert text_table([["a", "bb"], ["ccc", "d"]], left=2).splitlines() == ["a    bb", "-------", "ccc  d"]


def test_errors_are_one_line_and_never_empty():
    assert one_line(ValueError("first\n   second\t third ")) == "first second third"
    assert one_line(ValueError()) == "ValueError"
    assert one_line(KeyError("no\nquotes")) == "no quotes"

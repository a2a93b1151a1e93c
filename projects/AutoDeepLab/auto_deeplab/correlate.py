"""How well the proxy ranks dense prediction cells: its rewards beside those of a training that is longer."""

from collections.abc import Sequence

from adet_ext.cli.project_correlate import run_correlate

__all__ = ["main"]

_PROG, _NODE = "python -m auto_deeplab correlate", "MODEL.ATROUS_HEAD.SEARCH"


def main(argv: Sequence[str] | None = None) -> int:
    """Train cells of a journal for longer, and print how their ranks agree."""
    return run_correlate(_PROG, _NODE, "auto_deeplab.dense_proxy:make_evaluate", argv)

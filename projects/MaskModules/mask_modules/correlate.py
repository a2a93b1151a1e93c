"""How well the proxy ranks mask modules: its rewards beside those of a training that is longer."""

from collections.abc import Sequence

from adet_ext.cli.project_correlate import run_correlate

__all__ = ["main"]

_PROG, _NODE = "python -m mask_modules correlate", "MODEL.MASK_MODULES.SEARCH"


def main(argv: Sequence[str] | None = None) -> int:
    """Train modules of a journal for longer, and print how their ranks agree."""
    return run_correlate(_PROG, _NODE, "mask_modules.proxy:make_evaluate", argv)

"""How well the proxy ranks architectures: its rewards beside those of a training that is longer (thesis Figure 7.6)."""

from collections.abc import Sequence

from adet_ext.cli.project_correlate import run_correlate

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Train architectures of a journal for longer, and print how their ranks agree."""
    return run_correlate("python -m nas_fcos correlate", "MODEL.NAS_FCOS.SEARCH", "nas_fcos.proxy:make_evaluate", argv)

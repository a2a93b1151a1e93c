"""What the searched backbones cost, and how many architectures the space has."""

import argparse
from collections.abc import Sequence

from adet_ext.utils.table import text_table

from .architecture import load_architecture
from .space import AutoPanopticSpace, BackboneCost

__all__ = ["main"]

_REPEATS = (8, 8, 16, 8)
_WIDTHS = {"while searching": (48, 96, 240, 480, 960), "final": (72, 172, 432, 864, 1728)}


def main(argv: Sequence[str] | None = None) -> int:
    """Print both."""
    argparse.ArgumentParser(prog="python -m auto_panoptic table", description=__doc__).parse_args(argv)
    rows = [["backbone", "width", "parameters", "multiply-adds, 224 x 224"]]
    for name in ("coco", "ade20k"):
        for width, channels in _WIDTHS.items():
            multiply_adds, parameters = BackboneCost(channels, _REPEATS).of(load_architecture(name).backbone)
            rows.append([name, width, f"{parameters:,}", f"{multiply_adds / 1e9:.3f} G"])
    print(text_table(rows, left=2))
    space = AutoPanopticSpace(_WIDTHS["while searching"], _REPEATS)
    print("\narchitectures:", ", ".join(f"{part} {count:.4g}" for part, count in space.counts().items()))
    print(f"together: {space.size():.4g}")
    return 0

"""Table 2 of Auto-DeepLab, and the dense prediction cell beside an atrous pyramid: what each costs.

Multiply-adds are counted once for every product. The paper's are those of a TensorFlow graph, 4 to 5 % more: its atrous
convolutions round the sides of a map up to a multiple of the rate, and its image pooling slides a window.
"""

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from adet_ext.config import load_config
from adet_ext.d2.modeling import build_model
from adet_ext.utils.table import text_table

__all__ = ["CONFIGS", "ROWS", "Row", "main", "measure", "parameters_of"]

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
HEIGHT, WIDTH = 1024, 2048


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of Table 2: its config, and the figures that are printed there."""

    name: str
    config: str
    operations: float  # G
    parameters: float  # M
    miou: float  # CityScapes val, %


ROWS = (
    Row("Auto-DeepLab-S", "AutoDeepLab_S.yaml", 333.25, 10.15, 79.74),
    Row("Auto-DeepLab-M", "AutoDeepLab_M.yaml", 460.93, 21.62, 80.04),
    Row("Auto-DeepLab-L", "AutoDeepLab_L.yaml", 695.03, 44.42, 80.33),
)


def measure(config: str, height: int = HEIGHT, width: int = WIDTH) -> tuple[int, int]:
    """Return parameters and multiply-adds of a semantic model, up to its logits; on the meta device."""
    cfg = load_config(str(CONFIGS / config), ["MODEL.DEVICE", "meta"])
    model = build_model(cfg).eval()
    images = torch.empty(1, 3, height, width, device="meta")
    with torch.no_grad():
        operations = _multiply_adds(lambda: model.sem_seg_head.layers(model.backbone(images)))
    return parameters_of(model), operations


def parameters_of(module: nn.Module) -> int:
    """Return the number of parameters."""
    return sum(parameter.numel() for parameter in module.parameters())


def _multiply_adds(call) -> int:
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops() // 2


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table."""
    argparse.ArgumentParser(description=__doc__).parse_args(argv)
    rows = []
    for row in ROWS:
        parameters, operations = measure(row.config)
        rows.append(
            [
                row.name,
                f"{parameters:,}",
                f"{100 * (parameters / 1e6 / row.parameters - 1):+.2f} %",
                f"{operations / 1e9:.2f} G",
                f"{100 * (operations / 1e9 / row.operations - 1):+.2f} %",
            ]
        )
    head = ["model", "parameters", "beside the paper", f"multiply-adds, {HEIGHT} x {WIDTH}", "beside the paper"]
    print(text_table([head, *rows]))
    return 0

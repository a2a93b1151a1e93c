"""Table 7.2: what every row costs, beside what the thesis prints.

Operations are counted as the thesis does: multiply-adds, biases, batch norms that are not frozen, ReLU modules and max
pooling (see :class:`adet_ext.benchmark.cost.Cost`); parameters are those that are trained. The networks are built and
run on the meta device, which has shapes and no numbers.
"""

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from adet_ext.benchmark.cost import Cost, measure
from adet_ext.config import load_config
from adet_ext.d2.config import CfgNode
from adet_ext.d2.modeling import build_model
from adet_ext.utils.table import text_table

__all__ = ["CONFIGS", "ROWS", "Row", "cost_of", "count", "head_operations", "main"]

CONFIGS = Path(__file__).resolve().parents[1] / "configs"

HEIGHT, WIDTH = 800, 1088
_HEAD = "proposal_generator"


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of Table 7.2 or 7.4, with what is printed there; 0 where nothing is."""

    decoder: str
    backbone: str
    config: str
    operations: float = 0  # G
    parameters: float = 0  # M
    ap: float = 0


_X = "X-64x4d-101"
ROWS = (
    Row("RetinaNet @256", "MobileNetV2", "RetinaNet_MNV2_1x", 133.4, 11.3, 30.8),
    Row("FCOS @256", "MobileNetV2", "FCOS_MNV2_1x", 105.4, 9.8, 31.2),
    Row("NAS-FCOS @128", "MobileNetV2", "NAS_FCOS_128_MNV2_1x", 39.3, 5.9, 32.0),
    Row("NAS-FCOS @128-256", "MobileNetV2", "NAS_FCOS_128_256_MNV2_1x", 95.6, 9.9, 33.8),
    Row("NAS-FCOS @256", "MobileNetV2", "NAS_FCOS_256_MNV2_1x", 121.8, 16.1, 34.7),
    Row("RetinaNet @256", "R-50", "RetinaNet_R_50_1x", 198.0, 33.6, 36.1),
    Row("FCOS @256", "R-50", "FCOS_R_50_1x", 169.9, 32.0, 37.4),
    Row("NAS-FCOS @128", "R-50", "NAS_FCOS_128_R_50_1x", 104.0, 27.8, 37.9),
    Row("NAS-FCOS @128-256", "R-50", "NAS_FCOS_128_256_R_50_1x", 160.4, 31.8, 39.1),
    Row("NAS-FCOS @256", "R-50", "NAS_FCOS_256_R_50_1x", 189.6, 38.4, 39.8),
    Row("RetinaNet @256", "R-101", "RetinaNet_R_101_2x", 262.4, 52.5, 37.8),
    Row("FCOS @256", "R-101", "FCOS_R_101_2x", 234.3, 50.9, 41.5),
    Row("NAS-FCOS @256", "R-101", "NAS_FCOS_256_R_101_2x", 254.0, 57.3, 43.0),
    Row("FCOS @256", _X, "FCOS_X_101_64x4d_2x", 371.2, 89.6, 43.2),
    Row("NAS-FCOS @128-256", _X, "NAS_FCOS_128_256_X_101_64x4d_2x", 361.6, 89.4, 44.5),
    Row("FCOS @256 w/improvements", _X, "FCOS_X_101_64x4d_2x_improved", 371.2, 89.6, 44.7),
    Row("NAS-FCOS @128-256 w/improvements", _X, "NAS_FCOS_128_256_X_101_64x4d_2x_improved", 361.6, 89.4, 46.1),
    Row("NAS-FCOS @256, f only", "R-50", "NAS_FCOS_f_R_50_1x", ap=38.9),
    Row("NAS-FCOS @256, h only", "R-50", "NAS_FCOS_h_R_50_1x", ap=38.7),
    Row("DeformFPN-FCOS @256", "R-50", "DeformFPN_FCOS_R_50_1x", ap=38.4),
)


class _Network(nn.Module):
    """Backbone, pyramid and head of a model, without the choice of detections, which depends on values.

    Modules keep their names.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self.backbone, self.proposal_generator = model.backbone, model.proposal_generator

    def forward(self, images: torch.Tensor) -> None:
        features = self.backbone(images)
        head = getattr(self.proposal_generator, "fcos_head", None) or self.proposal_generator.retinanet_head
        head([features[name] for name in self.proposal_generator.in_features])


def count(cfg: CfgNode, height: int = HEIGHT, width: int = WIDTH) -> Cost:
    """Count the network of a config at a size that the backbone can divide; nothing is computed.

    The names of its parts are "backbone", "backbone.bottom_up" and "proposal_generator".
    """
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.DEVICE, cfg.MODEL.WEIGHTS = "meta", ""
    with torch.device("meta"):
        network = _Network(build_model(cfg))
        return measure(network, [torch.zeros(1, 3, height, width)])


@functools.cache
def cost_of(name: str) -> Cost:
    """Count the network of one of the project's configs, given without its folder and ending."""
    return count(load_config(str(CONFIGS / f"{name}.yaml")))


def head_operations(cost: Cost) -> int:
    """Return the multiply-adds and biases of the head alone, which is how 7.4.2 counts it: without ReLU modules."""
    relu = [name for name, kind in cost.kinds.items() if kind == "ReLU" and name.startswith(_HEAD)]
    return cost.operations(_HEAD) - sum(cost.elementwise[name] for name in relu)


def residual(value: float, printed: float) -> str:
    """Return by how many percent a value is off the printed one, or "" where none is printed."""
    return f"{100 * (value / printed - 1):+.2f} %" if printed else ""


def main(argv: Sequence[str] | None = None) -> int:
    """Print all rows, each with its residuals, and the heads alone."""
    table = [("decoder", "backbone", "FLOPs G", "printed", "off by", "params M", "printed", "off by", "AP printed")]
    for row in ROWS:
        cost = cost_of(row.config)
        operations, parameters = cost.operations() / 1e9, cost.trainable[""] / 1e6
        flops = (f"{operations:.2f}", row.operations or "", residual(operations, row.operations))
        params = (f"{parameters:.3f}", row.parameters or "", residual(parameters, row.parameters))
        table.append((row.decoder, row.backbone, *map(str, (*flops, *params, row.ap))))
    print(text_table(table, left=2))
    print(f"\n{HEIGHT} x {WIDTH}; FLOPs with biases, batch norms and ReLU modules; parameters that are trained")
    for name, config, flops, params in (
        ("FCOS", "FCOS_R_50_1x", 89.16, 4.92),
        ("NAS-FCOS", "NAS_FCOS_256_R_50_1x", 79.24, 3.41),
    ):
        cost = cost_of(config)
        print(
            f"head of {name} @256: {head_operations(cost) / 1e9:.2f} G multiply-adds and biases (printed {flops}), "
            f"{cost.trainable[_HEAD] / 1e6:.3f} M parameters (printed {params})"
        )
    return 0

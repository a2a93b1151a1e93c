"""Evaluate trained models on their data, for comparison with the figures on record."""

import json
import math
import os
from typing import Any, NamedTuple

from ..config import load_config
from ..d2.config import CfgNode
from ..data.register import register_dataset
from ..errors import UserError
from ..model_zoo import config_folder, get_config
from ..trained import find_trained
from ..utils.files import make_folder
from .checkpoint import AdetCheckpointer
from .trainer import Trainer

__all__ = ["Comparison", "evaluate_foreign", "evaluate_trained", "figures_of"]

# What an evaluation calls a figure, and what the zoo calls it.
_FIGURES = {"segm": ("mask AP", {"AP": "", "AP50": "50", "AP75": "75"}), "bbox": ("box AP", {"AP": ""})}


class Comparison(NamedTuple):
    """Figures on record and found here, by name, None where there is none; ``folder`` has the detections."""

    name: str
    figures: dict[str, tuple[float | None, float | None]]
    folder: str


def figures_of(results: dict[str, Any]) -> dict[str, float]:
    """Return the figures of an evaluation under the zoo's names, in percent."""
    found = {}
    for task, (name, parts) in _FIGURES.items():
        for part, suffix in parts.items():
            if math.isfinite(results.get(task, {}).get(part, math.nan)):
                found[name + suffix] = float(results[task][part])
    if "panoptic_seg" in results:
        found["PQ"] = float(results["panoptic_seg"]["PQ"])
    return found


def evaluate_trained(name: str, data: str, output: str) -> Comparison:
    """Evaluate a trained model on its validation data.

    Args:
        data: the folder of its data set, or one that has it under the name on record.
        output: the folder for results, one below it for each model.

    Raises:
        UserError: the model or its data are not there, or do not fit.
    """
    found = find_trained(name)
    cfg = get_config(name, trained=True)
    _register(found.record["evaluated_on"], data, cfg)
    results = _evaluate(cfg, os.path.join(output, *name.split("/")))
    return _compared(name, found.record["figures"], results, output)


def _compared(name: str, recorded: dict[str, float], results: dict[str, float], output: str) -> Comparison:
    names = dict.fromkeys([*recorded, *results])
    return Comparison(name, {key: (recorded.get(key), results.get(key)) for key in names}, output)


def _register(record: dict[str, str], data: str, cfg: CfgNode) -> None:
    """Register the data set of a record: its ``name``, ``folder``, ``images`` and ``annotations``, relative paths."""
    if "annotations" in record:
        folders = [data, os.path.join(data, record["folder"])]
        fitting = [x for x in folders if os.path.isfile(os.path.join(x, record["annotations"]))]
        if not fitting:
            raise UserError(
                f"{os.path.join(data, record['annotations'])} is missing; make the data set by 'python -m adet_ext "
                f"data {record['made_by']}' and give its folder by --data"
            )
        register_dataset(
            record["name"],
            os.path.join(fitting[0], record["images"]),
            os.path.join(fitting[0], record["annotations"]),
            classes=record["classes"],
        )
    cfg.DATASETS.TEST = (record["name"],)


def evaluate_foreign(config: str, weights: str, output: str) -> Comparison:
    """Evaluate a checkpoint of AdelaiDet's or Detectron2's zoo; figures on record are those that were published.

    Raises:
        UserError: the config is not a packaged one, or the weights or COCO are not there.
    """
    cfg = load_config(config, ["MODEL.WEIGHTS", weights])
    rows = json.loads((config_folder() / "zoo.json").read_text(encoding="utf-8"))["adelaidet"]
    published = next((row["figures"] for row in rows if row["config"] == config), {})
    results = _evaluate(cfg, os.path.join(output, *config.removesuffix(".yaml").split("/")))
    published = {key: value for key, value in published.items() if key in results}  # others are of other data
    return _compared(config, published, results, output)


def _evaluate(cfg: CfgNode, folder: str) -> dict[str, float]:
    cfg.OUTPUT_DIR = make_folder(folder, "--output-dir")
    model = Trainer.build_model(cfg)
    AdetCheckpointer(model).load_to_predict(cfg.MODEL.WEIGHTS)
    return figures_of(Trainer.test(cfg, model))

"""Evaluate trained models on their data, for comparison with the figures on record."""

import json
import math
import os
from typing import Any, NamedTuple

from ..config import load_config
from ..d2.config import CfgNode
from ..data.camvid import register_camvid
from ..data.camvid_panoptic import register_camvid_panoptic
from ..data.register import register_dataset
from ..errors import UserError
from ..model_zoo import config_folder, get_config
from ..trained import find_trained
from ..utils.files import make_folder
from .checkpoint import AdetCheckpointer
from .trainers import trainer_of

__all__ = ["Comparison", "evaluate_foreign", "evaluate_trained", "figures_of", "has_data"]

# What an evaluation calls a figure, and what the zoo calls it.
_FIGURES = {"segm": ("mask AP", {"AP": "", "AP50": "50", "AP75": "75"}), "bbox": ("box AP", {"AP": ""})}
_SEMANTIC = ("mIoU", "mAcc", "gAcc", "tIoU")


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
    found.update({name: float(results["sem_seg"][name]) for name in _SEMANTIC if name in results.get("sem_seg", {})})
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


def has_data(name: str, data: str) -> bool:
    """Return whether the folder has the validation data of a trained model."""
    record = find_trained(name).record["evaluated_on"]
    return "folder" not in record or _folder_of(record, data) is not None


def _register(record: dict[str, str], data: str, cfg: CfgNode) -> None:
    """Register the data set of a record, in the folder ``data`` or in its ``folder`` there.

    It has ``images`` and ``annotations``, relative paths of instances in COCO format, or ``split``, of CamVid's
    sequences, or ``panoptic_split``, of CamVid's panoptic images. A built-in set has no ``folder``.
    """
    cfg.DATASETS.TEST = (record["name"],)
    if "folder" not in record:
        return
    folder = _folder_of(record, data)
    if folder is None:
        raise UserError(
            f"{os.path.join(data, _list_of(record))} is missing; make the data set by 'python -m adet_ext data "
            f"{record['made_by']}' and give its folder by --data"
        )
    if "split" in record:
        register_camvid(record["name"], folder, record["split"])
    elif "panoptic_split" in record:
        register_camvid_panoptic(record["name"], folder, record["panoptic_split"])
    else:
        images, annotations = (os.path.join(folder, record[part]) for part in ("images", "annotations"))
        register_dataset(record["name"], images, annotations, classes=record["classes"])


def _folder_of(record: dict[str, str], data: str) -> str | None:
    folders = [data, os.path.join(data, record["folder"])]
    return next((folder for folder in folders if os.path.isfile(os.path.join(folder, _list_of(record)))), None)


def _list_of(record: dict[str, str]) -> str:
    """Return the file that lists the images of a record's data set."""
    if "split" in record:
        return f"{record['split']}.txt"
    if "panoptic_split" in record:
        return f"annotations/panoptic_{record['panoptic_split']}.json"
    return record["annotations"]


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
    trainer = trainer_of(cfg)
    model = trainer.build_model(cfg)
    AdetCheckpointer(model).load_to_predict(cfg.MODEL.WEIGHTS)
    return figures_of(trainer.test(cfg, model))

"""Measure how much trained models' detections change when the image moves by some pixels."""

import argparse
import json
import os
import statistics
from dataclasses import asdict

import numpy as np
from tqdm import tqdm

from ..benchmark.shift import Consistency, shift_consistency
from ..config import load_config
from ..d2.data import DatasetCatalog
from ..engine.predictor import Predictor
from ..errors import UserError
from ..report.charts import CHART_STYLE, line_chart
from ..utils.files import make_folder, written_beside
from ..utils.image_io import read_as
from ..utils.table import text_table

__all__ = ["add_parser", "run"]

WEIGHTS = "model_final.pth"


def add_parser(verbs: argparse._SubParsersAction) -> None:
    """Add the verb ``shift`` and its options."""
    shift = verbs.add_parser("shift", help="consistency of detections when the image moves", description=__doc__)
    shift.add_argument("runs", nargs="+", metavar="RUN", help=f"folders with a config.yaml and a {WEIGHTS}")
    shift.add_argument("--dataset", help="a registered data set; the runs' DATASETS.TEST if left out")
    shift.add_argument("--count", type=int, default=32, help="images, at even distances from all of it (32)")
    shift.add_argument("--shifts", type=int, default=31, help="pixels, at most (31)")
    shift.add_argument("--threshold", type=float, default=0.5, help="least score of what is looked for (0.5)")
    shift.add_argument("--json", metavar="FILE", help="write all the numbers here as well")
    shift.add_argument("--html", metavar="FILE", help="draw the share found and the mask IoU against the shift here")


def run(arguments: argparse.Namespace) -> int:
    """Measure one run after the other on the same images and print a table."""
    if arguments.count < 1 or arguments.shifts < 1:
        raise UserError(f"--count and --shifts must be 1 or more; got {arguments.count} and {arguments.shifts}")
    predictors = {folder: _predictor(folder) for folder in arguments.runs}
    results = {}
    with tqdm(total=arguments.count * len(predictors), desc="images") as bar:
        for folder, predictor in predictors.items():
            images = _images(arguments.dataset or predictor.cfg.DATASETS.TEST[0], arguments.count)
            results[folder] = shift_consistency(
                predictor, images, shifts=arguments.shifts, threshold=arguments.threshold, tick=bar.update
            )
    print(_render(results))
    if arguments.json:
        _write(arguments.json, json.dumps({name: asdict(result) for name, result in results.items()}, indent=1))
    if arguments.html:
        _write(arguments.html, _page(results))
    return 0


def _predictor(folder: str) -> Predictor:
    config, weights = (os.path.join(folder, name) for name in ("config.yaml", WEIGHTS))
    for path in (config, weights):
        if not os.path.isfile(path):
            raise UserError(f"a run must be the output folder of a finished training; got {folder}, without {path}")
    return Predictor(load_config(config, ["MODEL.WEIGHTS", weights]))


def _images(dataset: str, count: int) -> list[np.ndarray]:
    try:
        records = DatasetCatalog.get(dataset)
    except KeyError as error:
        raise UserError(
            f"--dataset must be a registered data set; got {dataset}. 'python -m adet_ext data list' lists them"
        ) from error
    chosen = np.unique(np.linspace(0, len(records) - 1, count).astype(int))
    return [read_as(records[i]["file_name"], "BGR") for i in chosen]


def _render(results: dict[str, Consistency]) -> str:
    table = [["run", "objects", "found %", "worst %", "box IoU", "mask IoU", "score change"]]
    for name, result in results.items():
        means = (statistics.fmean(values) for values in (result.box_iou, result.mask_iou, result.score))
        shares = f"{100 * statistics.fmean(result.found):.2f}", f"{100 * min(result.found):.2f}"
        table.append([name, str(result.objects), *shares, *(f"{value:.4f}" for value in means)])
    return text_table(table)


def _page(results: dict[str, Consistency]) -> str:
    charts = []
    for name, label in (("found", "share found"), ("mask_iou", "mask IoU of those found"), ("score", "score change")):
        series = {
            os.path.normpath(run): ([*range(1, len(result.found) + 1)], list(getattr(result, name)))
            for run, result in results.items()
        }
        charts.append(f'<div class="chart">{line_chart(series, x_label="shift, pixels", y_label=label)}</div>')
    style = ":root { --ink-soft: #555; --rule: #ddd } body { font-family: sans-serif; max-width: 60rem; margin: 2rem }"
    return (
        '<!doctype html><meta charset="utf-8"><title>Shift consistency</title>'
        f"<style>{style}{CHART_STYLE}</style><h1>Shift consistency</h1>{''.join(charts)}"
    )


def _write(path: str, text: str) -> None:
    make_folder(os.path.dirname(os.path.abspath(path)))
    with written_beside(path) as beside, open(beside, "w", encoding="utf-8") as file:
        file.write(text)

"""AP of boxes on a data set in PASCAL VOC's format, on either engine."""

import logging
import os
from collections import OrderedDict
from collections.abc import Sequence
from urllib.parse import quote

import numpy as np

from ..d2.data import MetadataCatalog
from ..d2.evaluation import DatasetEvaluator
from ..d2.structures import BoxMode
from ..data.voc import registered_dicts
from ..utils.files import make_folder, written_beside
from .gather import gather_predictions
from .voc_ap import Detections, Truth, voc_average_precisions

__all__ = ["VOCEvaluator"]

logger = logging.getLogger(__name__)

_THRESHOLDS = np.arange(50, 100, 5) / 100.0  # of IoU
_FIRST_YEAR_OF_ALL_POINTS = 2010


class VOCEvaluator(DatasetEvaluator):
    """VOC's AP in percent: over 11 points of recall for sets whose metadata has a ``year`` before 2010, else over all.

    ``evaluate`` returns for "bbox" what Detectron2's PascalVOCDetectionEvaluator does: "AP50", VOC's own figure,
    "AP75", and "AP", the mean over IoU thresholds 0.5, 0.55 .. 0.95, each a mean over classes; then "AP50-name" and
    "AP-name" of each class. Two things differ from Detectron2: a class without objects, or with difficult ones alone,
    has NaN and is left out of the means, where Detectron2 counts it as 0; and neither scores nor boxes are rounded
    (Detectron2 keeps 3 and 1 decimals).

    ``output_dir`` gets the devkit's result files, ``comp4_det_SPLIT_CLASS.txt``: image, score, and the box in pixels
    counted from 1.
    """

    def __init__(self, dataset_name: str, distributed: bool = True, output_dir: str | None = None):
        """
        Args:
            dataset_name: a registered set with VOC's ``dirname``, ``split`` and ``thing_classes``.
            distributed: gather from all processes and evaluate in the first; else each on its own.
            output_dir: gets the result files; None: none are written.

        Raises:
            UserError: the annotations are missing or wrong; said here, before hours of inference.
        """
        self._distributed = distributed
        self._output_dir = output_dir
        self._metadata = MetadataCatalog.get(dataset_name)
        self._classes = list(self._metadata.thing_classes)
        self._eleven_points = self._metadata.get("year", _FIRST_YEAR_OF_ALL_POINTS) < _FIRST_YEAR_OF_ALL_POINTS
        dicts = registered_dicts(dataset_name)
        self._image_ids = [record["image_id"] for record in dicts]
        self._truth = _truth(dicts)

    def reset(self) -> None:
        self._predictions: list[tuple[str, np.ndarray, np.ndarray, np.ndarray]] = []

    def process(self, inputs: Sequence[dict], outputs: Sequence[dict]) -> None:
        """``inputs`` need "image_id"; outputs without "instances" are passed over."""
        for input, output in zip(inputs, outputs):
            if "instances" in output:
                found = output["instances"].to("cpu")
                labels, boxes, scores = found.pred_classes, found.pred_boxes.tensor.double(), found.scores.double()
                self._predictions.append((str(input["image_id"]), labels.numpy(), boxes.numpy(), scores.numpy()))

    def evaluate(self) -> dict:
        predictions = gather_predictions(self._predictions, self._distributed)
        if not predictions:
            return {}
        found = self._detections(predictions)
        if self._output_dir:
            self._write(found)
        ap = 100 * voc_average_precisions(
            self._truth, found, len(self._classes), _THRESHOLDS, self._eleven_points
        )  # T, C
        metrics = {"AP": _mean(ap), "AP50": _mean(ap[0]), "AP75": _mean(ap[5])}
        for name, column in zip(self._classes, ap.T):
            metrics[f"AP50-{name}"], metrics[f"AP-{name}"] = float(column[0]), float(column.mean())
        logger.info(self._table(metrics))
        return OrderedDict(bbox=metrics)

    def _detections(self, predictions: list[tuple]) -> Detections:
        """All detections, in the order of the data set's images, whatever process they come from."""
        index = {image_id: number for number, image_id in enumerate(self._image_ids)}
        name = self._metadata.name
        for image_id, labels, _, _ in predictions:
            if image_id not in index:
                raise ValueError(f"{name!r}, image {image_id}: predictions for an image that is not in the set")
            if len(labels) and not 0 <= labels.min() <= labels.max() < len(self._classes):
                raise ValueError(
                    f"{name!r}, image {image_id}: a detection of class {labels.max()}, but the data set has "
                    f"{len(self._classes)} classes, from 0 on; check the model's number of classes"
                )
        predictions = sorted(predictions, key=lambda prediction: index[prediction[0]])
        images = np.repeat([index[p[0]] for p in predictions], [len(p[1]) for p in predictions])
        labels, boxes, scores = (np.concatenate([p[i] for p in predictions]) for i in (1, 2, 3))
        return Detections(images.astype(np.int64), labels.astype(np.int64), boxes, scores)

    def _write(self, found: Detections) -> None:
        folder = make_folder(self._output_dir)
        split = self._metadata.get("split")
        for label, name in enumerate(self._classes):
            mine = np.flatnonzero(found.label == label)
            path = os.path.join(folder, f"comp4_det_{split}_{quote(name, safe=' ')}.txt")
            with written_beside(path) as beside, open(beside, "w", encoding="utf-8") as file:
                for image, score, box in zip(found.image[mine], found.score[mine], found.box[mine] + (1, 1, 0, 0)):
                    file.write(f"{self._image_ids[image]} {score:.6f} {' '.join(f'{x:.6f}' for x in box)}\n")
        logger.info("Results are in %s, a file for each class", folder)

    def _table(self, metrics: dict[str, float]) -> str:
        points = "11 points" if self._eleven_points else "all points"
        width = max(map(len, [*self._classes, "class"]))
        rows = [("class", "AP50", "AP")]
        rows += [(n, f"{metrics[f'AP50-{n}']:.3f}", f"{metrics[f'AP-{n}']:.3f}") for n in self._classes]
        rows.append(("mean", f"{metrics['AP50']:.3f}", f"{metrics['AP']:.3f}"))
        lines = [f"{name:<{width}} {half:>8} {all_:>8}" for name, half, all_ in rows]
        return f"VOC's AP of boxes on {self._metadata.name}, over {points} of recall, in percent:\n" + "\n".join(lines)


def _truth(dicts: list[dict]) -> Truth:
    objects = [(number, a) for number, record in enumerate(dicts) for a in record["annotations"]]
    boxes = [BoxMode.convert(a["bbox"], a["bbox_mode"], BoxMode.XYXY_ABS) for _, a in objects]
    return Truth(
        np.array([number for number, _ in objects], np.int64),
        np.array([a["category_id"] for _, a in objects], np.int64),
        np.array(boxes, np.float64).reshape(-1, 4),
        np.array([a["difficult"] for _, a in objects], bool),
    )


def _mean(ap: np.ndarray) -> float:
    """The mean over what is defined, NaN where nothing is."""
    defined = ap[~np.isnan(ap)]
    return float(defined.mean()) if len(defined) else float("nan")

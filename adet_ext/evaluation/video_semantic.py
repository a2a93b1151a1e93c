"""Evaluate semantic segmentation on clips: accuracy, borders, and steadiness in time.

T: frames of a clip; C: classes; H, W: size of a frame.
"""

import json
import logging
import os
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

from ..d2.data import MetadataCatalog
from ..d2.evaluation import DatasetEvaluator
from ..d2.utils import comm
from ..data.semantic_sets import IGNORE
from ..utils.files import make_folder, written_beside
from ..utils.table import text_table
from .confusion import count_pairs, semantic_scores
from .temporal import agreement_along_flow
from .trimap import trimap

__all__ = ["VideoSemanticEvaluator"]

logger = logging.getLogger(__name__)


class VideoSemanticEvaluator(DatasetEvaluator):
    """Scores in percent, over the scored frames of all processes: one confusion matrix for the whole set.

    ``evaluate`` returns for "sem_seg": "mIoU", "fwIoU", "mAcc", "gAcc" (see :func:`~.confusion.semantic_scores`),
    "tIoU", the mean IoU over a trimap (see :func:`~.trimap.trimap`), "TC", temporal consistency: of the pixels of
    scored frames whose place in the frame before is known, the share that has the same class there (see
    :func:`~.temporal.agreement_along_flow`); then "IoU-name", "Acc-name" and "tIoU-name" of each class. Classes without
    true pixels have NaN and are left out of means.

    ``output_dir`` gets ``sem_seg_evaluation.json`` with these numbers, the class names and the confusion matrix (rows:
    true classes).
    """

    def __init__(
        self,
        dataset_name: str,
        distributed: bool = True,
        output_dir: str | None = None,
        *,
        trimap_width: int = 3,
        temporal: bool = True,
    ):
        """
        Args:
            dataset_name: a registered set with ``stuff_classes``.
            distributed: add the counts of all processes and evaluate in the first; else each on its own.
            trimap_width: in pixels.
            temporal: whether to measure temporal consistency, which takes most of the time.
        """
        self._name = dataset_name
        self._classes = list(MetadataCatalog.get(dataset_name).stuff_classes)
        self._distributed, self._output_dir = distributed, output_dir
        self._width, self._temporal = trimap_width, temporal
        self.reset()

    def reset(self) -> None:
        size = len(self._classes), len(self._classes)
        self._confusion, self._band = np.zeros(size, np.int64), np.zeros(size, np.int64)
        self._agreement = np.zeros(2, np.int64)  # pixels that keep their class, pixels counted
        self._frames = 0

    def process(self, inputs: Sequence[dict], outputs: Sequence[Sequence[dict]]) -> None:
        """Count a batch.

        Args:
            inputs: clips of :class:`~adet_ext.data.semantic_mapper.SemanticMapper` in evaluation.
            outputs: for each clip T dicts with "sem_seg", float scores (C, H, W).
        """
        for clip, frames in zip(inputs, outputs):
            labels = [_classes_of(output, clip, len(self._classes)) for output in frames]
            if len(labels) != len(clip["file_names"]):
                raise ValueError(
                    f"{clip['file_name']}: the model must give an output for each of the clip's "
                    f"{len(clip['file_names'])} frames; got {len(labels)}"
                )
            for t in np.flatnonzero(clip.get("scored", [True] * len(labels))).tolist():
                self._score(clip["sem_segs"][t].numpy().astype(np.uint8), labels[t])
                if self._temporal and t > 0:
                    images = [_image(clip["frames"][i]) for i in (t - 1, t)]
                    found = [_fit(labels[i], images[0].shape[:2]) for i in (t - 1, t)]
                    self._agreement += agreement_along_flow(*images, *found)

    def _score(self, true: np.ndarray, predicted: np.ndarray) -> None:
        if (true == IGNORE).all():  # a frame without labels
            return
        self._frames += 1
        self._confusion += count_pairs(true, predicted, len(self._classes), IGNORE)
        band = trimap(true, self._width, IGNORE)
        self._band += count_pairs(true[band], predicted[band], len(self._classes), IGNORE)

    def evaluate(self) -> dict | None:
        counts = self._confusion, self._band, self._agreement, self._frames
        if self._distributed:
            comm.synchronize()
            gathered = comm.gather(counts, dst=0)
            if not comm.is_main_process():
                return None
            counts = tuple(sum(parts) for parts in zip(*gathered))
        confusion, band, agreement, frames = counts
        if not frames:
            logger.warning("No frame with labels arrived; nothing is evaluated")
            return {}
        scores, borders = semantic_scores(confusion), semantic_scores(band)
        result = {key: 100 * scores[key] for key in ("mIoU", "fwIoU", "mAcc", "gAcc")}
        result["tIoU"] = 100 * borders["mIoU"]
        if self._temporal:
            result["TC"] = 100 * float(agreement[0] / agreement[1]) if agreement[1] else float("nan")
        for key, values in (("IoU", scores["IoU"]), ("Acc", scores["Acc"]), ("tIoU", borders["IoU"])):
            result.update({f"{key}-{name}": 100 * float(v) for name, v in zip(self._classes, values)})
        logger.info(self._table(result, frames))
        if self._output_dir:
            self._write(result, confusion, frames)
        return OrderedDict(sem_seg=result)

    def _table(self, result: dict[str, float], frames: int) -> str:
        keys = "IoU", "Acc", "tIoU"
        rows = [["class", *keys]]
        rows += [[name, *(f"{result[f'{key}-{name}']:.2f}" for key in keys)] for name in self._classes]
        rows.append(["mean", *(f"{result[key]:.2f}" for key in ("mIoU", "mAcc", "tIoU"))])
        rest = ", ".join(f"{key} {result[key]:.2f}" for key in ("fwIoU", "gAcc", "TC") if key in result)
        return f"Semantic segmentation of {self._name}, {frames} frames, in percent:\n{text_table(rows)}\n{rest}"

    def _write(self, result: dict[str, float], confusion: np.ndarray, frames: int) -> None:
        path = os.path.join(make_folder(self._output_dir), "sem_seg_evaluation.json")
        content: dict[str, Any] = {
            "dataset": self._name,
            "frames": frames,
            "trimap_width": self._width,
            "classes": self._classes,
            "scores": {key: None if np.isnan(value) else value for key, value in result.items()},
            "confusion": confusion.tolist(),
        }
        with written_beside(path) as beside, open(beside, "w", encoding="utf-8") as file:
            json.dump(content, file, indent=1)


def _classes_of(output: dict, clip: dict, num_classes: int) -> np.ndarray:
    """The predicted classes, uint8 (H, W)."""
    scores = output["sem_seg"]
    expected = num_classes, clip["height"], clip["width"]
    if tuple(scores.shape) != expected:
        raise ValueError(
            f"{clip['file_name']}: scores must be {expected}, classes by pixels; got {tuple(scores.shape)}"
        )
    return scores.argmax(dim=0).to("cpu").numpy().astype(np.uint8)


def _image(frame: Any) -> np.ndarray:
    return frame.permute(1, 2, 0).numpy()


def _fit(labels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return labels if labels.shape == size else cv2.resize(labels, size[::-1], interpolation=cv2.INTER_NEAREST)

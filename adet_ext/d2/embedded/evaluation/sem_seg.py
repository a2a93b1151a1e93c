"""Semantic segmentation: IoU and pixel accuracy from one confusion matrix.

C classes; a label map is (H, W). Rows of the confusion matrices are predicted, columns true classes; row
and column C are void.
"""

import itertools
import json
import logging
import os
from collections import OrderedDict
from collections.abc import Sequence

import cv2
import numpy as np
import pycocotools.mask as mask_util
import torch
from PIL import Image

from ..data.catalog import DatasetCatalog, MetadataCatalog
from ..utils import comm
from ..utils.file_io import PathManager
from .evaluator import DatasetEvaluator

logger = logging.getLogger(__name__)


def _boundary(labels: np.ndarray) -> np.ndarray:
    """Return uint8 labels minus their erosion by 2 % of the diagonal, which is 0 except next to lower labels."""
    height, width = labels.shape
    steps = max(1, int(round(0.02 * np.sqrt(height**2 + width**2))))
    padded = cv2.copyMakeBorder(labels, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    return labels - cv2.erode(padded, np.ones((3, 3), np.uint8), iterations=steps)[1:-1, 1:-1]


def _iou(confusion: np.ndarray, need_truth: bool) -> np.ndarray:
    """Return the IoU of each class, (C,), or NaN if it does not occur (``need_truth``: in the ground truth)."""
    hit = confusion.diagonal()[:-1].astype(float)
    true = confusion[:-1, :-1].sum(axis=0).astype(float)
    union = true + confusion[:-1, :-1].sum(axis=1).astype(float) - hit
    valid = (union > 0) & (true > 0) if need_truth else union > 0
    return np.divide(hit, union, out=np.full(len(hit), np.nan), where=valid)


class SemSegEvaluator(DatasetEvaluator):
    """mIoU, fwIoU, mACC, pACC and each class' IoU, boundary IoU and accuracy, in percent.

    Void pixels do not count. Means are over the classes in the ground truth. ``output_dir`` gets
    ``sem_seg_predictions.json`` (COCO's stuff format) and ``sem_seg_evaluation.pth``.
    """

    def __init__(self, dataset_name: str, distributed: bool = True, output_dir: str | None = None):
        meta = MetadataCatalog.get(dataset_name)
        self._dataset_name = dataset_name
        self._distributed = distributed
        self._output_dir = output_dir
        self.input_file_to_gt_file = {d["file_name"]: d["sem_seg_file_name"] for d in DatasetCatalog.get(dataset_name)}
        contiguous = meta.get("stuff_dataset_id_to_contiguous_id")
        self._dataset_ids = {v: k for k, v in contiguous.items()} if contiguous else None
        self._class_names = meta.stuff_classes
        self._num_classes = len(self._class_names)
        self._ignore_label = meta.ignore_label
        self._with_boundaries = self._num_classes < 255  # the erosion needs uint8 labels

    def reset(self) -> None:
        size = self._num_classes + 1
        self._confusion = np.zeros((size, size), dtype=np.int64)
        self._boundary_confusion = np.zeros((size, size), dtype=np.int64)
        self._predictions: list[dict] = []

    def _count(self, predicted: np.ndarray, true: np.ndarray) -> np.ndarray:
        size = self._num_classes + 1
        pairs = size * predicted.reshape(-1).astype(np.int64) + true.reshape(-1)
        return np.bincount(pairs, minlength=size * size).reshape(size, size)

    def process(self, inputs: Sequence[dict], outputs: Sequence[dict]) -> None:
        """``inputs`` need "file_name", ``outputs`` "sem_seg": (C, H, W) scores."""
        for input, output in zip(inputs, outputs):
            predicted = output["sem_seg"].argmax(dim=0).cpu().numpy()  # H, W
            file = self.input_file_to_gt_file[input["file_name"]]
            with PathManager.open(file, "rb") as f:
                true = np.array(Image.open(f), dtype=int)  # H, W
            if true.shape != predicted.shape:
                raise ValueError(f"{file} is {true.shape}, the prediction for {input['file_name']} {predicted.shape}")
            true = np.where(true == self._ignore_label, self._num_classes, true)
            if true.min() < 0 or true.max() > self._num_classes:
                raise ValueError(f"{file} has labels outside 0 to {self._num_classes - 1} and {self._ignore_label}")
            self._confusion += self._count(predicted, true)
            if self._with_boundaries:
                edges = _boundary(predicted.astype(np.uint8)), _boundary(true.astype(np.uint8))
                self._boundary_confusion += self._count(*edges)
            self._predictions.extend(self.encode_json_sem_seg(predicted, input["file_name"]))

    def evaluate(self) -> dict | None:
        if self._distributed:
            comm.synchronize()
            gathered = comm.all_gather((self._confusion, self._boundary_confusion, self._predictions))
            if not comm.is_main_process():
                return None
            confusions, boundary_confusions, predictions = zip(*gathered)
            self._confusion, self._boundary_confusion = sum(confusions), sum(boundary_confusions)
            self._predictions = list(itertools.chain(*predictions))

        hit = self._confusion.diagonal()[:-1].astype(float)
        true = self._confusion[:-1, :-1].sum(axis=0).astype(float)
        present = true > 0
        accuracy = np.divide(hit, true, out=np.full(len(hit), np.nan), where=present)
        iou = _iou(self._confusion, need_truth=True)
        boundary_iou = _iou(self._boundary_confusion, need_truth=False)
        weights = true / np.sum(true)
        # A mean, or another order of sums and divisions, would differ in the last digit.
        result = {
            "mIoU": 100 * (np.sum(iou[present]) / np.sum(present)),
            "fwIoU": 100 * np.sum(iou[present] * weights[present]),
        }
        for i, name in enumerate(self._class_names):
            result[f"IoU-{name}"] = 100 * iou[i]
            if self._with_boundaries:
                result[f"BoundaryIoU-{name}"] = 100 * boundary_iou[i]
                result[f"min(IoU, B-Iou)-{name}"] = 100 * min(iou[i], boundary_iou[i])
        result["mACC"] = 100 * (np.sum(accuracy[present]) / np.sum(present))
        result["pACC"] = 100 * (np.sum(hit) / np.sum(true))
        result.update({f"ACC-{name}": 100 * accuracy[i] for i, name in enumerate(self._class_names)})

        if self._output_dir:
            PathManager.mkdirs(self._output_dir)
            with PathManager.open(os.path.join(self._output_dir, "sem_seg_predictions.json"), "w") as f:
                json.dump(self._predictions, f)
            with PathManager.open(os.path.join(self._output_dir, "sem_seg_evaluation.pth"), "wb") as f:
                torch.save(result, f)
        results = OrderedDict({"sem_seg": result})
        logger.info(results)
        return results

    def encode_json_sem_seg(self, sem_seg: np.ndarray, input_file_name: str) -> list[dict]:
        """Return an (H, W) label map as run lengths per class, with the data set's category ids."""
        segments = []
        for label in np.unique(sem_seg):
            if self._dataset_ids is not None and label not in self._dataset_ids:
                raise ValueError(f"class {label} predicted, which '{self._dataset_name}' does not have")
            category = int(label) if self._dataset_ids is None else self._dataset_ids[label]
            rle = mask_util.encode(np.asfortranarray(sem_seg == label).view(np.uint8))
            rle["counts"] = rle["counts"].decode("ascii")
            segments.append({"file_name": input_file_name, "category_id": category, "segmentation": rle})
        return segments

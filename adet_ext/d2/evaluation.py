"""Evaluation: the loop over a data set, COCO AP, semantic IoU, panoptic quality."""

from . import ENGINE

if ENGINE == "detectron2":
    from detectron2.evaluation import (
        COCOEvaluator,
        DatasetEvaluator,
        DatasetEvaluators,
        SemSegEvaluator,
        inference_context,
        inference_on_dataset,
        print_csv_format,
        verify_results,
    )
    from detectron2.evaluation.coco_evaluation import instances_to_coco_json
    from detectron2.evaluation.testing import flatten_results_dict
else:
    from .embedded.evaluation import (
        COCOEvaluator,
        DatasetEvaluator,
        DatasetEvaluators,
        SemSegEvaluator,
        flatten_results_dict,
        inference_context,
        inference_on_dataset,
        instances_to_coco_json,
        print_csv_format,
        verify_results,
    )

# Ours on both engines: Detectron2's own needs panopticapi, which is not on PyPI, and keeps no PNGs of predictions.
from .embedded.evaluation.panoptic import COCOPanopticEvaluator
from .embedded.evaluation.pq import id2rgb, rgb2id

__all__ = [
    "COCOEvaluator", "COCOPanopticEvaluator", "DatasetEvaluator", "DatasetEvaluators", "SemSegEvaluator",
    "flatten_results_dict", "id2rgb", "inference_context", "inference_on_dataset", "instances_to_coco_json",
    "print_csv_format", "rgb2id", "verify_results",
]  # fmt: skip

"""Evaluation: the loop over a data set, COCO AP, semantic IoU."""

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

__all__ = [
    "COCOEvaluator", "DatasetEvaluator", "DatasetEvaluators", "SemSegEvaluator",
    "flatten_results_dict", "inference_context", "inference_on_dataset", "instances_to_coco_json",
    "print_csv_format", "verify_results",
]  # fmt: skip

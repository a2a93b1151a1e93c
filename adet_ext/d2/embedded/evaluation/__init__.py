"""Evaluation of the embedded engine: the loop over a data set, COCO AP, semantic IoU."""

from .coco import COCOEvaluator, instances_to_coco_json
from .evaluator import DatasetEvaluator, DatasetEvaluators, inference_context, inference_on_dataset
from .sem_seg import SemSegEvaluator
from .testing import flatten_results_dict, print_csv_format, verify_results

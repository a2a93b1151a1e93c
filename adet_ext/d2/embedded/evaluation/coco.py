"""COCO's average precision of boxes and masks.

N detections of an image, H, W image height and width; T IoU thresholds, R recall levels, K classes, A area
ranges, D detection limits.
"""

import contextlib
import io
import itertools
import json
import logging
import os
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
import pycocotools.mask as mask_util
import torch

from ..data.catalog import MetadataCatalog
from ..data.coco import convert_to_coco_dict, read_coco_file
from ..structures import BoxMode, Instances
from ..utils import comm
from ..utils.file_io import PathManager
from ..utils.logger import create_small_table
from .evaluator import DatasetEvaluator

logger = logging.getLogger(__name__)

# Metric -> (IoU threshold or None for all of 0.50:0.95, area range).
_METRICS = {"AP": (None, 0), "AP50": (0.5, 0), "AP75": (0.75, 0), "APs": (None, 1), "APm": (None, 2), "APl": (None, 3)}


def _encode_mask(mask: torch.Tensor) -> dict:
    """Return COCO run lengths of one (H, W) mask, nonzero inside."""
    mask = mask.view(torch.uint8) if mask.dtype == torch.bool else (mask != 0).to(torch.uint8)
    # COCO's order is by columns. torch transposes in blocks, several times faster than a strided copy.
    rle = mask_util.encode(mask.t().contiguous().numpy().T)
    return {"size": rle["size"], "counts": rle["counts"].decode("ascii")}


def instances_to_coco_json(instances: Instances, img_id: int) -> list[dict]:
    """Return the detections of one image in COCO's result format, one dict each.

    The instances must be on the CPU. Class ids are the model's. ``pred_masks`` may be an (N, H, W) tensor or BitMasks.
    """
    if len(instances) == 0:
        return []
    if instances.has("pred_keypoints"):
        raise ValueError("keypoints need Detectron2 (ADET_EXT_ENGINE=detectron2)")
    boxes = BoxMode.convert(instances.pred_boxes.tensor.numpy(), BoxMode.XYXY_ABS, BoxMode.XYWH_ABS).tolist()
    results = [
        {"image_id": img_id, "category_id": category, "bbox": box, "score": score}
        for category, box, score in zip(instances.pred_classes.tolist(), boxes, instances.scores.tolist())
    ]
    if instances.has("pred_masks"):
        masks = getattr(instances.pred_masks, "tensor", instances.pred_masks)
        for result, mask in zip(results, masks):
            result["segmentation"] = _encode_mask(mask)
    return results


def _usable_by_fast_impl(dataset: dict) -> bool:
    """Whether all ids are integers, which faster-coco-eval needs."""
    ids = itertools.chain(
        (image["id"] for image in dataset["images"]),
        (anno["id"] for anno in dataset["annotations"]),
        (category["id"] for category in dataset["categories"]),
    )
    return all(type(i) is int for i in ids)


class COCOEvaluator(DatasetEvaluator):
    """COCO's AP of boxes ("bbox") and masks ("segm") in percent, or NaN if it is not defined.

    Ground truth is the data set's ``json_file``, or its dicts, which are converted when the evaluator is made. Files
    of earlier runs are not used. ``evaluate`` returns for each task "AP", "AP50", "AP75", "APs",
    "APm", "APl" and, with more than one class, "AP-NAME" of each. Without annotations (a test set) only
    the result file is written.
    """

    def __init__(
        self,
        dataset_name: str,
        tasks: Sequence[str] | None = None,
        distributed: bool = True,
        output_dir: str | None = None,
        *,
        max_dets_per_image: int | None = None,
        use_fast_impl: bool = True,
        allow_cached_coco: bool = True,
    ):
        """
        Args:
            tasks: "bbox" and "segm"; None takes those that the predictions allow.
            distributed: gather from all processes and evaluate in the first; else each on its own.
            output_dir: gets ``coco_instances_results.json`` and ``instances_predictions.pth``.
            max_dets_per_image: the highest scores that count; None means COCO's 100.
            use_fast_impl: faster-coco-eval in place of pycocotools. Its numbers are those of Detectron2's
                fast code; pycocotools' differ in the 16th digit (it adds 2**-52 to a denominator).
            allow_cached_coco: accepted without effect, as conversions are not cached.
        """
        unknown = set(tasks or ()) - {"bbox", "segm"}
        if unknown:
            raise ValueError(
                f"tasks are bbox and segm, got {sorted(unknown)}; keypoints need Detectron2 "
                "(ADET_EXT_ENGINE=detectron2)"
            )
        self._tasks = tasks
        self._distributed = distributed
        self._output_dir = output_dir
        self._max_dets = sorted([1, 10, 100 if max_dets_per_image is None else max_dets_per_image])
        self._metadata = MetadataCatalog.get(dataset_name)
        json_file = self._metadata.get("json_file")
        if json_file:
            self._dataset = read_coco_file(json_file, "images", "categories")
        else:
            self._dataset = convert_to_coco_dict(dataset_name)
        self._do_evaluation = "annotations" in self._dataset
        self._dataset.setdefault("info", {})
        for anno in self._dataset.get("annotations", ()):
            anno.setdefault("iscrowd", 0)
        self._fast = (
            use_fast_impl
            and self._max_dets == [1, 10, 100]  # Detectron2, too, evaluates other limits with pycocotools
            and self._do_evaluation
            and _usable_by_fast_impl(self._dataset)
        )

    def reset(self) -> None:
        self._predictions: list[dict] = []

    def process(self, inputs: Sequence[dict], outputs: Sequence[dict]) -> None:
        """``inputs`` need "image_id"; outputs without "instances" are skipped."""
        assert len(inputs) == len(outputs), f"{len(inputs)} inputs, but {len(outputs)} outputs"
        for input, output in zip(inputs, outputs):
            if "instances" in output:
                instances = output["instances"].to(torch.device("cpu"))
                detections = instances_to_coco_json(instances, input["image_id"])
                self._predictions.append({"image_id": input["image_id"], "instances": detections})

    def evaluate(self, img_ids: Sequence[int] | None = None) -> dict:
        """
        Args:
            img_ids: only these images count; None means all of the data set.
        """
        predictions = self._predictions
        if self._distributed:
            comm.synchronize()
            predictions = list(itertools.chain(*comm.gather(predictions, dst=0)))
            if not comm.is_main_process():
                return {}
        if not predictions:
            logger.warning("[COCOEvaluator] no predictions with instances arrived; nothing is evaluated")
            return {}
        results = self._dataset_results(predictions)
        if self._output_dir:
            PathManager.mkdirs(self._output_dir)
            with PathManager.open(os.path.join(self._output_dir, "instances_predictions.pth"), "wb") as f:
                torch.save(predictions, f)
            file = os.path.join(self._output_dir, "coco_instances_results.json")
            logger.info("Saving results to %s", file)
            with PathManager.open(file, "w") as f:
                json.dump(results, f)
        if not self._do_evaluation:
            logger.info("The data set has no annotations: results are saved, not evaluated")
            return {}
        segm = any("segmentation" in r for r in results)
        tasks = self._tasks or (["bbox", "segm"] if segm else ["bbox"])
        return OrderedDict((task, self._evaluate_task(task, results, img_ids)) for task in sorted(tasks))

    def _dataset_results(self, predictions: list[dict]) -> list[dict]:
        """Return all detections, with the data set's category ids."""
        results = [dict(r) for r in itertools.chain(*(p["instances"] for p in predictions))]
        contiguous = self._metadata.get("thing_dataset_id_to_contiguous_id")
        if contiguous is not None:
            dataset_ids = {i: category for category, i in contiguous.items()}
            for r in results:
                if r["category_id"] not in dataset_ids:
                    raise ValueError(
                        f"image {r['image_id']} has a detection of class {r['category_id']}, but data set "
                        f"'{self._metadata.name}' has {len(dataset_ids)} classes, from 0 on; check the "
                        "model's number of classes"
                    )
                r["category_id"] = dataset_ids[r["category_id"]]
        foreign = {r["image_id"] for r in results} - {image["id"] for image in self._dataset["images"]}
        if foreign:
            raise ValueError(f"predictions for images that '{self._metadata.name}' does not have: {list(foreign)[:5]}")
        return results

    def _evaluate_task(self, task: str, results: list[dict], img_ids: Sequence[int] | None) -> dict:
        if not results:
            logger.warning("No detections: %s metrics are not defined", task)
            return dict.fromkeys(_METRICS, float("nan"))
        if task == "segm":
            # With a box, COCO's API would use its area instead of the mask's for small, medium and large.
            results = [{k: v for k, v in r.items() if k != "bbox"} for r in results]
        else:
            results = [{k: v for k, v in r.items() if k != "segmentation"} for r in results]
        if self._fast:
            from faster_coco_eval import COCO
            from faster_coco_eval.core.faster_eval_api import COCOeval_faster as COCOeval
        else:
            from pycocotools.coco import COCO
            from pycocotools.cocoeval import COCOeval
        logger.info("Evaluating %s with %s", task, COCO.__module__.split(".")[0])
        with contextlib.redirect_stdout(io.StringIO()):
            ground_truth = COCO()
            # COCO's API writes into annotations, so each task gets a copy.
            ground_truth.dataset = {**self._dataset, "annotations": [dict(a) for a in self._dataset["annotations"]]}
            ground_truth.createIndex()
            evaluation = COCOeval(ground_truth, ground_truth.loadRes(results), task)
            evaluation.params.maxDets = self._max_dets
            if img_ids is not None:
                evaluation.params.imgIds = list(img_ids)
            evaluation.evaluate()
            evaluation.accumulate()
        return self._metrics(task, evaluation)

    def _metrics(self, task: str, evaluation) -> dict:
        precision = np.asarray(evaluation.eval["precision"])  # T, R, K, A, D; -1 where not defined
        thresholds = evaluation.params.iouThrs
        limits = [i for i, limit in enumerate(self._max_dets) if limit == self._max_dets[2]]

        def percent(values: np.ndarray) -> float:
            values = values[values > -1]
            return float(np.mean(values) * 100) if values.size else float("nan")

        metrics = {}
        for name, (threshold, area) in _METRICS.items():
            chosen = precision if threshold is None else precision[np.where(threshold == thresholds)[0]]
            metrics[name] = percent(chosen[:, :, :, [area]][..., limits])
        logger.info("Evaluation results for %s:\n%s", task, create_small_table(metrics))
        names = self._metadata.get("thing_classes") or []
        if len(names) > 1:
            assert len(names) == precision.shape[2], (
                f"'{self._metadata.name}' has {len(names)} class names for {precision.shape[2]} categories"
            )
            per_class = {name: percent(precision[:, :, k, 0, -1]) for k, name in enumerate(names)}
            lines = "\n".join(f"  {name}: {ap:.3f}" for name, ap in per_class.items())
            logger.info("Per-category %s AP:\n%s", task, lines)
            metrics.update({"AP-" + name: ap for name, ap in per_class.items()})
        return metrics

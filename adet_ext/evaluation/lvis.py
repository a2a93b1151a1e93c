"""AP of boxes and masks against LVIS annotations, by the ``lvis`` package; of COCO's categories, the thesis' AP*."""

import json
import logging
import os
from collections import OrderedDict
from collections.abc import Sequence
from types import ModuleType

import numpy as np
import torch

from ..d2.data import MetadataCatalog
from ..d2.evaluation import DatasetEvaluator, instances_to_coco_json
from ..d2.utils import PathManager, create_small_table
from ..data.lvis import read_lvis_file
from ..errors import UserError
from ..utils.files import make_folder, written_beside
from .gather import gather_predictions

__all__ = ["LVISEvaluator"]

logger = logging.getLogger(__name__)

_METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf")


class LVISEvaluator(DatasetEvaluator):
    """AP as LVIS defines it, in percent; NaN where it is not defined (no such annotation, or no detection at all).

    Federated annotations count as the package has it: detections of a category that the image says nothing about are
    left out; where its annotations are not exhaustive, those that match none are. ``evaluate`` returns, for "bbox" and
    "segm", "AP", "AP50", "AP75", by size "APs", "APm", "APl", and of rare, common and frequent categories "APr",
    "APc", "APf"; AP* of Table 4.11 is "segm"'s "AP" on ``lvis_v0.5_val_cocofied``. Without annotations (a test set)
    only the result file is written.
    """

    def __init__(
        self,
        dataset_name: str,
        tasks: Sequence[str] | None = None,
        distributed: bool = True,
        output_dir: str | None = None,
        *,
        max_dets_per_image: int | None = None,
    ):
        """
        Args:
            dataset_name: registered with an LVIS file as ``json_file``, and the classes of the model.
            tasks: "bbox" and "segm"; None takes those that the predictions allow.
            distributed: gather from all processes and evaluate in the first; else each on its own.
            output_dir: gets ``lvis_instances_results.json``.
            max_dets_per_image: the highest scores that count; None means LVIS's 300.

        Raises:
            UserError: the lvis package, or the file, is not there or not right.
        """
        if set(tasks or ()) - {"bbox", "segm"}:
            raise ValueError(f"tasks are bbox and segm, got {sorted(tasks)}")
        _lvis_package()  # whatever is missing is said before hours of inference
        self._tasks = tasks
        self._distributed = distributed
        self._output_dir = output_dir
        self._max_dets = 300 if max_dets_per_image is None else max_dets_per_image
        self._metadata = MetadataCatalog.get(dataset_name)
        class_of = self._metadata.get("thing_dataset_id_to_contiguous_id")
        if class_of is None:  # Detectron2's sets of LVIS's own categories, whose ids count from 1
            class_of = {i + 1: i for i in range(len(self._metadata.thing_classes))}
        self._dataset_ids = {i: category for category, i in class_of.items()}
        content = read_lvis_file(self._metadata.json_file)
        self._image_ids = {image["id"] for image in content["images"]}
        self._do_evaluation = bool(content["annotations"])

    def reset(self) -> None:
        self._predictions: list[dict] = []

    def process(self, inputs: Sequence[dict], outputs: Sequence[dict]) -> None:
        """``inputs`` need "image_id"; outputs without "instances" are passed over."""
        for input, output in zip(inputs, outputs):
            if "instances" in output:
                instances = output["instances"].to(torch.device("cpu"))
                self._predictions.append({"instances": instances_to_coco_json(instances, input["image_id"])})

    def evaluate(self) -> dict:
        predictions = gather_predictions(self._predictions, self._distributed)
        if not predictions:
            return {}
        results = self._dataset_results(predictions)
        if self._output_dir:
            file_name = os.path.join(make_folder(self._output_dir), "lvis_instances_results.json")
            with written_beside(file_name) as beside, open(beside, "w", encoding="utf-8") as file:
                json.dump(results, file)
            logger.info("Results are in %s", file_name)
        if not self._do_evaluation:
            logger.info("The data set has no annotations: results are saved, not evaluated")
            return {}
        segm = any("segmentation" in result for result in results)
        tasks = self._tasks or (("bbox", "segm") if segm else ("bbox",))
        return OrderedDict((task, self._evaluate_task(task, results)) for task in sorted(tasks))

    def _dataset_results(self, predictions: list[dict]) -> list[dict]:
        """All detections, with the data set's category ids."""
        results = [dict(result) for prediction in predictions for result in prediction["instances"]]
        for result in results:
            where = f"'{self._metadata.name}', image {result['image_id']}"
            if result["image_id"] not in self._image_ids:
                raise ValueError(f"{where}: predictions for an image that the annotations do not have")
            if result["category_id"] not in self._dataset_ids:
                raise ValueError(
                    f"{where}: a detection of class {result['category_id']}, but the data set has "
                    f"{len(self._dataset_ids)} classes, from 0 on; check the model's number of classes"
                )
            result["category_id"] = self._dataset_ids[result["category_id"]]
        return results

    def _evaluate_task(self, task: str, results: list[dict]) -> dict[str, float]:
        if not results:
            logger.warning("No detections: %s metrics are not defined", task)
            return dict.fromkeys(_METRICS, float("nan"))
        lvis = _lvis_package()
        # With a box, the package would take its area in place of the mask's for small, medium and large; and it writes
        # into what it is given.
        other = {"bbox": "segmentation", "segm": "bbox"}[task]
        results = [{key: value for key, value in result.items() if key != other} for result in results]
        truth = lvis.LVIS(PathManager.get_local_path(self._metadata.json_file))
        evaluation = lvis.LVISEval(truth, lvis.LVISResults(truth, results, max_dets=self._max_dets), task)
        evaluation.run()
        found = evaluation.get_results()
        metrics = {name: float(found[name] * 100) if found[name] > -1 else float("nan") for name in _METRICS}
        logger.info("Evaluation results for %s on LVIS annotations:\n%s", task, create_small_table(metrics))
        return metrics


class _OlderNumPy:
    """NumPy, with an alias of Python's float that it had before 1.24 and lvis 0.5.3 still asks for."""

    float = float

    def __getattr__(self, name: str):
        return getattr(np, name)


def _lvis_package() -> ModuleType:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        import lvis
        import lvis.eval
    except ImportError as error:
        raise UserError(
            f"LVIS annotations are evaluated by the lvis package, which does not import ({error}); "
            "pip install --no-deps lvis (what it needs is here; without --no-deps a second OpenCV would come with it)"
        ) from error
    # Importing it sets up the root logger, which is the program's to do.
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.getLogger("lvis").setLevel(logging.ERROR)
    if not hasattr(lvis.eval.np, "float"):
        lvis.eval.np = _OlderNumPy()
    return lvis

"""Panoptic quality of a model on a COCO panoptic data set, on either engine.

The numbers are panopticapi's, to the last digit. Detectron2's own evaluator needs that package, which is not on PyPI,
and leaves no PNGs behind; this one takes the catalog and the processes' functions through the door.
"""

import io
import itertools
import json
import logging
import multiprocessing
import os
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
from PIL import Image

from ..d2.data import MetadataCatalog
from ..d2.embedded.evaluation.evaluator import DatasetEvaluator
from ..d2.utils import PathManager, comm
from ..errors import UserError
from ..utils.segment_ids import id2rgb, rgb2id
from .pq import PQStat, compare_segments

logger = logging.getLogger(__name__)


class COCOPanopticEvaluator(DatasetEvaluator):
    """PQ, SQ and RQ in percent, of all categories, things ("_th") and stuff ("_st").

    Evaluated is the data set's ``panoptic_json`` with the PNGs in ``panoptic_root``; every image of it needs
    a prediction. ``output_dir`` gets ``predictions.json`` in COCO's panoptic format and the predicted PNGs
    in ``predictions/``.
    """

    def __init__(self, dataset_name: str, output_dir: str | None = None):
        self._metadata = meta = MetadataCatalog.get(dataset_name)
        self._thing_ids = {v: k for k, v in meta.thing_dataset_id_to_contiguous_id.items()}
        self._stuff_ids = {v: k for k, v in meta.stuff_dataset_id_to_contiguous_id.items()}
        self._output_dir = output_dir

    def reset(self) -> None:
        self._predictions: list[dict] = []

    def _segments(self, ids: np.ndarray, segments_info: list[dict] | None) -> tuple[np.ndarray, list[dict]]:
        """The map with 0 for void, and its segments with the data set's category ids."""
        if segments_info is None:
            # The model gives category * label_divisor + instance in one map, -1 for void.
            divisor = self._metadata.label_divisor
            labels = [int(label) for label in np.unique(ids) if label != -1]
            segments_info = [
                {"id": x + 1, "category_id": x // divisor, "isthing": x // divisor in self._thing_ids} for x in labels
            ]
            ids = ids + 1
        converted = []
        for segment in segments_info:
            segment = dict(segment)
            isthing = segment.pop("isthing", None)  # without it the category id is the data set's already
            if isthing is not None:
                kind, table = ("thing", self._thing_ids) if isthing else ("stuff", self._stuff_ids)
                if segment["category_id"] not in table:
                    raise UserError(
                        f"the {kind} classes of data set {self._metadata.name} must be those of the model; it has none "
                        f"with index {segment['category_id']}. Evaluate on a data set of the model's classes"
                    )
                segment["category_id"] = table[segment["category_id"]]
            converted.append(segment)
        return ids, converted

    def process(self, inputs: Sequence[dict], outputs: Sequence[dict]) -> None:
        """``inputs`` need "image_id" and "file_name"; ``outputs`` "panoptic_seg": an (H, W) map of ids and
        its list of segments ("id", "isthing", "category_id"), or None for the list."""
        for input, output in zip(inputs, outputs):
            ids, segments_info = output["panoptic_seg"]
            ids, segments_info = self._segments(ids.cpu().numpy(), segments_info)
            png = io.BytesIO()  # 10 to 100 times smaller than the map
            Image.fromarray(id2rgb(ids)).save(png, format="PNG")
            name = os.path.splitext(os.path.basename(input["file_name"]))[0] + ".png"
            prediction = {"image_id": input["image_id"], "file_name": name, "segments_info": segments_info}
            self._predictions.append({**prediction, "png_string": png.getvalue()})

    def evaluate(self) -> dict | None:
        comm.synchronize()
        predictions = list(itertools.chain(*comm.gather(self._predictions)))
        if not comm.is_main_process():
            return None
        json_file = PathManager.get_local_path(self._metadata.panoptic_json)
        with open(json_file) as f:
            truth = json.load(f)
        if self._output_dir:
            self._write(predictions, truth)
        by_image = {p["image_id"]: p for p in predictions}
        categories = {c["id"]: c for c in truth["categories"]}
        for annotation in truth["annotations"]:
            if annotation["image_id"] not in by_image:
                raise ValueError(
                    f"{json_file} has image {annotation['image_id']}, for which the model gave no prediction"
                )
        stat = PQStat(list(categories))
        # The official evaluation gives each processor a run of images and adds up the sums of the runs. Rounding makes
        # that another sum than that over all images: the runs are kept, so that the numbers are its to the last digit.
        for run in np.array_split(np.arange(len(truth["annotations"])), multiprocessing.cpu_count()):
            part = PQStat(list(categories))
            for i in run:
                annotation = truth["annotations"][i]
                self._add(annotation, by_image[annotation["image_id"]], part)
            stat += part
        return self._results(stat, categories)

    def _add(self, annotation: dict, prediction: dict, stat: PQStat) -> None:
        folder = PathManager.get_local_path(self._metadata.panoptic_root)
        true = rgb2id(np.asarray(Image.open(os.path.join(folder, annotation["file_name"])).convert("RGB")))
        pred = rgb2id(np.asarray(Image.open(io.BytesIO(prediction["png_string"]))))
        where = f"image {annotation['image_id']} ({annotation['file_name']})"
        if true.shape != pred.shape:
            raise ValueError(f"{where}: the annotation is {true.shape}, the prediction {pred.shape}")
        try:
            compare_segments(true, annotation["segments_info"], pred, prediction["segments_info"], stat)
        except (KeyError, ValueError) as error:
            raise ValueError(f"{where}: {error}") from error

    def _write(self, predictions: list[dict], truth: dict) -> None:
        folder = os.path.join(self._output_dir, "predictions")
        PathManager.mkdirs(folder)
        for p in predictions:
            with PathManager.open(os.path.join(folder, p["file_name"]), "wb") as f:
                f.write(p["png_string"])
        annotations = [{k: v for k, v in p.items() if k != "png_string"} for p in predictions]
        with PathManager.open(os.path.join(self._output_dir, "predictions.json"), "w") as f:
            json.dump({**truth, "annotations": annotations}, f)

    def _results(self, stat: PQStat, categories: dict[int, dict]) -> dict:
        things = {i for i, c in categories.items() if c["isthing"] == 1}
        groups = {"": set(categories), "_th": things, "_st": categories.keys() - things}
        averages = {suffix: stat.average(ids) for suffix, ids in groups.items()}
        result = {
            metric.upper() + suffix: 100 * average[metric]
            for suffix, average in averages.items()
            for metric in ("pq", "sq", "rq")
        }
        lines = [
            f"  {title}: PQ {100 * a['pq']:.3f}  SQ {100 * a['sq']:.3f}  RQ {100 * a['rq']:.3f}  ({a['n']} categories)"
            for title, a in zip(("All", "Things", "Stuff"), averages.values())
        ] + [
            f"  {categories[i]['name']}: PQ {100 * pq:.3f}  SQ {100 * sq:.3f}  RQ {100 * rq:.3f}"
            for i, (pq, sq, rq) in stat.per_category().items()
        ]
        logger.info("Panoptic quality:\n%s", "\n".join(lines))
        return OrderedDict({"panoptic_seg": result})

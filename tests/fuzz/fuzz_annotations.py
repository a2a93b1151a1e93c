"""Fuzz annotation files: what validation accepts, training and evaluation take, and nothing is lost without a word.

``python -m tests.fuzz.fuzz_annotations 5000`` prints how many files came to which end. A sample is its seed.
"""

import collections
import contextlib
import functools
import io
import json
import os
import sys
import warnings

import pycocotools.mask as mask_util
import torch
from PIL import Image

from adet_ext.config import get_cfg
from adet_ext.d2.data import DatasetCatalog, MetadataCatalog
from adet_ext.d2.structures import Boxes, Instances
from adet_ext.data.loader import dataset_dicts
from adet_ext.data.mapper import AdetDatasetMapper
from adet_ext.data.register import register_dataset
from adet_ext.data.validate import validate_coco
from adet_ext.engine.evaluators import build_evaluator
from adet_ext.errors import UserError

from .annotation_files import HEIGHT, IMAGES, WIDTH, spoiled_file
from .harness import main, quiet_folder, run_samples


def check(seed: int, folder: str) -> tuple[str, str]:
    """Return the class of the file of ``seed``, and what there is to say about it."""
    path = os.path.join(folder, "annotations.json")
    with open(path, "wb") as file:
        file.write(spoiled_file(seed))
    report = validate_coco(path, folder).report
    str(report).encode()
    sentences = [example for finding in report.findings.values() for example in finding.examples]
    if any("\n" in s or len(s) > 1000 for s in sentences):
        return "FAULT: sentence", str(report)
    # A model's classes, in another order than the file's, for every third file.
    classes = ["owl", "ant", "dog", "cat"] if seed % 3 == 0 else None
    try:
        register_dataset("fuzzed", folder, path, classes=classes)
    except UserError as error:
        if report.ok and classes and "class" in str(error):
            return "refused, other classes than the model", ""
        return ("refused", "") if not report.ok else ("FAULT: refused after validation", str(error))
    if not report.ok:
        return "FAULT: accepted after validation", str(report)
    named = sum(f.count for f in report.warnings if "left out" in f.examples[0])
    return _downstream(path, folder, bool(report.warnings), named)


def _downstream(path: str, folder: str, warned: bool, named: int) -> tuple[str, str]:
    records = DatasetCatalog.get("fuzzed")
    objects = [(d["image_id"], a["category_id"]) for d in records for a in d["annotations"] if not a["iscrowd"]]
    with open(path, "rb") as file:
        written = json.loads(file.read())["annotations"]
    left_out = len(written) - sum(len(d["annotations"]) for d in records)
    if left_out != named:
        return "FAULT: left out without a warning", f"{left_out} annotations, {named} of them named"
    problem = _unlike_ground_truth(objects)
    if problem:
        return "FAULT: evaluated on something else than trained on", problem
    if not objects:
        try:
            dataset_dicts(["fuzzed"], "DATASETS.TRAIN", filter_empty=True)
        except UserError:
            return "accepted, no object left", ""
        return "FAULT: no object, yet a training", ""
    dataset_dicts(["fuzzed"], "DATASETS.TRAIN", filter_empty=True)
    masked = MetadataCatalog.get("fuzzed").has_masks
    for mask_format in ("polygon", "bitmask"):  # validation opens no image: its size is checked here
        mapper = AdetDatasetMapper(
            True, augmentations=[], use_instance_mask=masked, instance_mask_format=mask_format, make_basis_sem=masked
        )
        for d in records:
            try:
                instances = mapper(d)["instances"]
            except UserError as error:
                if "pixels, its annotations say" in str(error):
                    return "refused when the image is read", ""
                raise
            found, there = len(instances), sum(not a["iscrowd"] for a in d["annotations"])
            if found != there:
                return "FAULT: lost in the mapper", f"image {d['image_id']}: {found} of {there} ({mask_format})"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        results = perfect_score("fuzzed", records, masked, folder)
    for task in ("bbox", "segm") if masked else ("bbox",):
        if not results.get(task, {}).get("AP", 0) > 99.9:
            return f"FAULT: {task} AP of perfect predictions", str(results)
    return "accepted, AP 100 with a warning" if warned else "accepted, AP 100", ""


def _unlike_ground_truth(objects: list[tuple]) -> str:
    """Say where the file of the evaluator has other objects than ``objects``; else ""."""
    metadata = MetadataCatalog.get("fuzzed")
    with open(metadata.json_file) as file:
        annotations = json.load(file)["annotations"]
    class_of = metadata.thing_dataset_id_to_contiguous_id
    there = collections.Counter((a["image_id"], class_of[a["category_id"]]) for a in annotations if not a["iscrowd"])
    trained = collections.Counter(objects)
    return "" if there == trained else f"evaluated: {there}, trained: {trained}"


@functools.cache
def _cfg():
    return get_cfg()


def perfect_score(name: str, records: list[dict], masked: bool, folder: str) -> dict:
    """Return what the evaluator makes of predictions that are the ground truth of training."""
    evaluator = build_evaluator(_cfg(), name, os.path.join(folder, "inference"))
    evaluator.reset()
    for d in records:
        objects = [a for a in d["annotations"] if not a["iscrowd"]]
        found = Instances((d["height"], d["width"]))
        boxes = torch.tensor([a["bbox"] for a in objects], dtype=torch.float32).reshape(-1, 4)
        found.pred_boxes = Boxes(torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1))
        found.scores = torch.linspace(0.99, 0.9, max(len(objects), 1))[: len(objects)]
        found.pred_classes = torch.tensor([a["category_id"] for a in objects], dtype=torch.int64)
        if masked:
            found.pred_masks = torch.zeros(len(objects), d["height"], d["width"], dtype=torch.bool)
            for mask, a in zip(found.pred_masks, objects):
                code = a["segmentation"]
                if isinstance(code, list):
                    code = mask_util.merge(mask_util.frPyObjects(code, d["height"], d["width"]))
                mask[:] = torch.from_numpy(mask_util.decode(code).astype(bool))
        evaluator.process([{"image_id": d["image_id"]}], [{"instances": found}])
    with contextlib.redirect_stdout(io.StringIO()):
        return evaluator.evaluate()


def run(n: int, seed: int = 0) -> tuple[collections.Counter, list]:
    """Check ``n`` files and return the counts of the classes, and the faults."""
    with quiet_folder() as folder:
        for i in range(IMAGES):
            Image.new("RGB", (WIDTH, HEIGHT), (40 * i, 90, 90)).save(os.path.join(folder, f"{i}.png"))
        return run_samples(functools.partial(check, folder=folder), range(seed, seed + n))


if __name__ == "__main__":
    sys.exit(main(run, 5000))

"""The embedded evaluators beside Detectron2's: the same numbers to the last digit, the same result files."""

import json
import math
import os

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from PIL import Image

from adet_ext.d2.embedded import data as our_data
from adet_ext.d2.embedded import evaluation as ours
from adet_ext.d2.embedded.structures import Boxes, Instances

pytestmark = pytest.mark.needs_detectron2

NAME = "test_evaluation_engines"


@pytest.fixture
def engines():
    """[(evaluation, data, Boxes, Instances)] of both engines."""
    evaluation = pytest.importorskip("detectron2.evaluation")
    import detectron2.data as data
    from detectron2 import structures

    both = [(ours, our_data, Boxes, Instances), (evaluation, data, structures.Boxes, structures.Instances)]
    yield both
    for _, registry, _, _ in both:
        for catalog in (registry.DatasetCatalog, registry.MetadataCatalog):
            catalog.pop(NAME, None)


def blob(rng, h, w):
    """A random rectangle, sometimes with a corner cut off."""
    y0, x0 = rng.randint(0, h - 2), rng.randint(0, w - 2)
    y1, x1 = rng.randint(y0 + 1, h + 1), rng.randint(x0 + 1, w + 1)
    mask = np.zeros((h, w), bool)
    mask[y0:y1, x0:x1] = True
    if rng.rand() < 0.3:
        mask[y0 : (y0 + y1) // 2, x0 : (x0 + x1) // 2] = False
    return mask if mask.any() else blob(rng, h, w)


def shifted(mask, rng):
    return np.roll(mask, rng.randint(-2, 3, 2), (0, 1))


def random_problem(seed, classes=(4, 1, 7), first_annotation=1):
    """COCO ground truth and the raw predictions for it: (coco, [(image id, boxes, scores, classes, masks)])."""
    rng = np.random.RandomState(seed)
    coco = {
        "info": {},
        "images": [],
        "annotations": [],
        "categories": [{"id": c, "name": f"c{c}"} for c in classes],
    }
    predictions = []
    for i in range(12):
        h, w = rng.choice([40, 130, 260]), rng.choice([50, 120, 300])
        image_id = int(rng.permutation(1000)[0]) * 20 + i
        coco["images"].append({"id": image_id, "file_name": f"{i}.jpg", "height": int(h), "width": int(w)})
        masks, scores, labels = [], [], []
        for _ in range(rng.randint(0, 6)):
            mask = blob(rng, h, w)
            rle = mask_util.encode(np.asfortranarray(mask.astype(np.uint8)))
            label = rng.randint(len(classes))
            coco["annotations"].append({
                "id": len(coco["annotations"]) + first_annotation, "image_id": image_id,
                "category_id": sorted(classes)[label], "bbox": mask_util.toBbox(rle).tolist(),
                "area": float(mask_util.area(rle)), "iscrowd": int(rng.rand() < 0.15),
                "segmentation": {"size": rle["size"], "counts": rle["counts"].decode()},
            })  # fmt: skip
            for _ in range(rng.randint(0, 4)):
                masks.append(shifted(mask, rng))
                labels.append(label if rng.rand() < 0.8 else rng.randint(len(classes)))
        for _ in range(rng.choice([0, 1, 3, 30, 110], p=[0.3, 0.25, 0.2, 0.2, 0.05])):
            masks.append(blob(rng, h, w))
            labels.append(rng.randint(len(classes)))
        scores = rng.rand(len(masks)).round(2)  # rounded: many ties
        boxes = [mask_util.toBbox(mask_util.encode(np.asfortranarray(m.astype(np.uint8)))) for m in masks]
        boxes = np.array(boxes).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        boxes += rng.rand(*boxes.shape)
        shape = (len(masks), h, w)
        predictions.append((image_id, boxes, scores, np.array(labels, int), np.array(masks, bool).reshape(shape)))
    return coco, predictions


def outputs_for(predictions, Boxes, Instances, masks=True):
    inputs, outputs = [], []
    for image_id, boxes, scores, labels, bits in predictions:
        instances = Instances(bits.shape[1:])
        instances.pred_boxes = Boxes(torch.as_tensor(boxes, dtype=torch.float32))
        instances.scores = torch.as_tensor(scores, dtype=torch.float32)
        instances.pred_classes = torch.as_tensor(labels)
        if masks:
            instances.pred_masks = torch.as_tensor(bits)
        inputs.append({"image_id": image_id, "file_name": f"{image_id}.jpg"})
        outputs.append({"instances": instances})
    return inputs, outputs


def same(a, b):
    assert a.keys() == b.keys()
    for task in a:
        assert list(a[task]) == list(b[task])
        for metric, value in a[task].items():
            other = b[task][metric]
            assert value == other or (math.isnan(value) and math.isnan(other)), (task, metric, value, other)


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("options", [
    {}, {"max_dets_per_image": 20}, {"max_dets_per_image": 5}, {"tasks": ("segm",)}, {"masks": False},
    {"first_annotation": 0}, {"classes": (3,)}, {"some_images": True},
], ids=str)  # fmt: skip
def test_coco_ap_is_equal_to_the_last_digit(engines, tmp_path, seed, fast, options):
    options = dict(options)
    problem = {k: options.pop(k) for k in ("classes", "first_annotation") if k in options}
    masks, some = options.pop("masks", True), options.pop("some_images", False)
    coco, predictions = random_problem(seed, **problem)
    (tmp_path / "gt.json").write_text(json.dumps(coco))
    results, files = [], []
    for evaluation, data, Boxes_, Instances_ in engines:
        register = data.register_coco_instances if data is our_data else data.datasets.register_coco_instances
        register(NAME, {}, str(tmp_path / "gt.json"), str(tmp_path))
        data.DatasetCatalog.get(NAME)
        folder = str(tmp_path / evaluation.__name__)
        evaluator = evaluation.COCOEvaluator(NAME, output_dir=folder, use_fast_impl=fast, **options)
        evaluator.reset()
        inputs, outputs = outputs_for(predictions, Boxes_, Instances_, masks)
        for i in range(0, len(inputs), 5):
            evaluator.process(inputs[i : i + 5], outputs[i : i + 5])
        image_ids = [p[0] for p in predictions[::2]] if some else None
        results.append(evaluator.evaluate(img_ids=image_ids))
        files.append(json.load(open(os.path.join(folder, "coco_instances_results.json"))))
        saved = torch.load(os.path.join(folder, "instances_predictions.pth"), weights_only=True)
        assert [p["image_id"] for p in saved] == [p[0] for p in predictions]
    same(*results)
    assert files[0] == files[1]


@pytest.mark.parametrize(
    "data_set", ["pennfudan/annotations/instances_val.json", "coco_tiny/annotations/instances_train.json"]
)
def test_coco_ap_of_disturbed_real_annotations_is_equal(engines, tmp_path, data_set):
    root = os.environ.get("ADET_EXT_TEST_DATA")
    if not root:
        pytest.skip("ADET_EXT_TEST_DATA does not name a folder with real data")
    path = os.path.join(root, data_set)
    coco = json.load(open(path))
    rng = np.random.RandomState(0)
    contiguous = {c: i for i, c in enumerate(sorted(c["id"] for c in coco["categories"]))}
    predictions = []
    for image in coco["images"]:
        h, w = image["height"], image["width"]
        annotations = [a for a in coco["annotations"] if a["image_id"] == image["id"]]
        rles = [a["segmentation"] for a in annotations]
        rles = [r if isinstance(r, dict) else mask_util.merge(mask_util.frPyObjects(r, h, w)) for r in rles]
        rles = [mask_util.frPyObjects(r, h, w) if isinstance(r["counts"], list) else r for r in rles]
        masks = [np.roll(mask_util.decode(r), rng.randint(-5, 6, 2), (0, 1)).astype(bool) for r in rles]
        boxes = np.array([a["bbox"] for a in annotations], float).reshape(-1, 4) + rng.rand(len(annotations), 4)
        boxes[:, 2:] += boxes[:, :2]
        labels = np.array([contiguous[a["category_id"]] for a in annotations], int)
        scores = rng.rand(len(masks)).round(1)
        predictions.append((image["id"], boxes, scores, labels, np.array(masks, bool).reshape(-1, h, w)))
    results = []
    for evaluation, data, Boxes_, Instances_ in engines:
        register = data.register_coco_instances if data is our_data else data.datasets.register_coco_instances
        register(NAME, {}, path, root)
        data.DatasetCatalog.get(NAME)
        evaluator = evaluation.COCOEvaluator(NAME)
        evaluator.reset()
        evaluator.process(*outputs_for(predictions, Boxes_, Instances_))
        results.append(evaluator.evaluate())
    same(*results)
    assert results[0]["segm"]["AP50"] > 30


@pytest.mark.parametrize("classes", [5, 300])
@pytest.mark.parametrize("seed", range(3))
def test_semantic_metrics_are_equal_to_the_last_digit(engines, tmp_path, seed, classes):
    rng = np.random.RandomState(seed)
    records, predicted = [], []
    for i in range(4):
        h, w = rng.randint(20, 60, 2)
        truth = rng.randint(0, max(classes - 1, 1), (h // 7 + 1, w // 7 + 1)).repeat(7, 0).repeat(7, 1)[:h, :w]
        scores = rng.rand(classes, h, w)
        np.put_along_axis(scores, truth[None], 0.98, 0)  # mostly right
        truth[rng.rand(h, w) < 0.1] = classes + 5
        mode = np.uint8 if classes < 200 else np.uint16
        Image.fromarray(truth.astype(mode)).save(tmp_path / f"{i}.png")
        records.append({"file_name": f"{i}.jpg", "sem_seg_file_name": str(tmp_path / f"{i}.png")})
        predicted.append({"sem_seg": torch.as_tensor(scores)})
    results, files = [], []
    for evaluation, data, _, _ in engines:
        data.DatasetCatalog.register(NAME, lambda: records)
        meta = data.MetadataCatalog.get(NAME)
        meta.set(stuff_classes=[f"c{i}" for i in range(classes)], ignore_label=classes + 5)
        meta.set(stuff_dataset_id_to_contiguous_id={i + 3: i for i in range(classes)})
        folder = str(tmp_path / evaluation.__name__)
        evaluator = evaluation.SemSegEvaluator(NAME, output_dir=folder)
        evaluator.reset()
        evaluator.process(records[:3], predicted[:3])
        evaluator.process(records[3:], predicted[3:])
        results.append(evaluator.evaluate())
        files.append(json.load(open(os.path.join(folder, "sem_seg_predictions.json"))))
    same(*results)
    assert files[0] == files[1]


def test_panoptic_predictions_are_collected_alike(engines, tmp_path, monkeypatch):
    """Up to the computation itself, for which Detectron2 needs panopticapi: a stand-in gives it the encoding."""
    import sys
    import types

    from adet_ext.d2.data import MetadataCatalog
    from adet_ext.evaluation.panoptic import COCOPanopticEvaluator
    from adet_ext.utils.segment_ids import id2rgb

    stand_in = types.ModuleType("panopticapi.utils")
    stand_in.id2rgb = id2rgb
    monkeypatch.setitem(sys.modules, "panopticapi", types.ModuleType("panopticapi"))
    monkeypatch.setitem(sys.modules, "panopticapi.utils", stand_in)
    maps = {"thing_dataset_id_to_contiguous_id": {4: 0}, "stuff_dataset_id_to_contiguous_id": {9: 1}}
    theirs_evaluation, theirs_data = engines[1][:2]
    collected = []
    for Evaluator, catalog in (
        (COCOPanopticEvaluator, MetadataCatalog),
        (theirs_evaluation.COCOPanopticEvaluator, theirs_data.MetadataCatalog),
    ):
        catalog.get(NAME).set(label_divisor=1000, **maps)
        evaluator = Evaluator(NAME)
        evaluator.reset()
        ids = torch.tensor([[0, 1, 70000], [2, 2, 2]], dtype=torch.int32)
        segments = [{"id": 1, "category_id": 0, "isthing": True}, {"id": 70000, "category_id": 1, "isthing": False},
                    {"id": 2, "category_id": 9}]  # fmt: skip
        packed = torch.tensor([[3, 3, 1000], [-1, -1, 1000]], dtype=torch.int32)
        inputs = [{"image_id": i, "file_name": f"folder/{i}.jpg"} for i in (1, 2)]
        evaluator.process(inputs, [{"panoptic_seg": (ids, segments)}, {"panoptic_seg": (packed, None)}])
        collected.append(evaluator._predictions)
        catalog.pop(NAME)
    for a, b in zip(*collected):
        assert a == b

"""Evaluators and the loop that feeds them, on whichever engine is on."""

import json
import logging
import math
import os

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from PIL import Image

from adet_ext.d2 import ENGINE
from adet_ext.d2 import evaluation as E
from adet_ext.d2.config import get_cfg
from adet_ext.d2.data import DatasetCatalog, MetadataCatalog
from adet_ext.d2.structures import Boxes, BoxMode, Instances

embedded_only = pytest.mark.skipif(ENGINE != "embedded", reason="Detectron2 does this otherwise")
NAME = "test_evaluation"
H, W = 48, 64


@pytest.fixture(autouse=True)
def forget_the_data_set():
    yield
    for catalog in (DatasetCatalog, MetadataCatalog):
        catalog.pop(NAME, None)


def records(n=4):
    """n images with one instance of each of two classes, as dicts of the catalog."""
    result = []
    for i in range(n):
        annotations = [
            {"bbox": [4 + i, 5, 20, 16], "bbox_mode": BoxMode.XYWH_ABS, "category_id": c, "iscrowd": 0,
             "segmentation": [[4 + i, 5, 24 + i, 5, 24 + i, 21, 4 + i, 21]]}
            for c in range(2)
        ]  # fmt: skip
        annotations[1]["bbox"] = [30, 20, 25, 20 + i]
        annotations[1]["segmentation"] = [[30, 20, 55, 20, 55, 40 + i, 30, 40 + i]]
        result.append({"file_name": f"{i}.jpg", "image_id": i + 1, "height": H, "width": W, "annotations": annotations})
    return result


def register(n=4, **metadata):
    DatasetCatalog.register(NAME, lambda: records(n))
    MetadataCatalog.get(NAME).set(thing_classes=["a", "b"], **metadata)


def perfect(record, with_masks=True):
    boxes, masks = [], []
    for a in record["annotations"]:
        x, y, w, h = a["bbox"]
        boxes.append([x, y, x + w, y + h])
        mask = torch.zeros(H, W, dtype=torch.bool)
        mask[y : y + h, x : x + w] = True
        masks.append(mask)
    instances = Instances((H, W))
    instances.pred_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32))
    instances.scores = torch.tensor([0.9, 0.8])
    instances.pred_classes = torch.tensor([0, 1])
    if with_masks:
        instances.pred_masks = torch.stack(masks)
    return {"instances": instances}


def evaluate(evaluator, inputs, outputs, batch=3):
    evaluator.reset()
    for i in range(0, len(inputs), batch):
        evaluator.process(inputs[i : i + batch], outputs[i : i + batch])
    return evaluator.evaluate()


class TestCOCO:
    def test_perfect_predictions_score_100_whatever_the_batches_are(self, tmp_path):
        register()
        evaluator = E.COCOEvaluator(NAME, output_dir=str(tmp_path))
        for batch in (1, 3, 4):
            result = evaluate(evaluator, records(), [perfect(r) for r in records()], batch)
            for task in ("bbox", "segm"):
                assert result[task]["AP"] == result[task]["AP-b"] == pytest.approx(100)

    def test_inputs_may_carry_ground_truth_and_outputs_may_lack_instances(self, tmp_path):
        register()
        inputs = records()
        for i in inputs:
            i["instances"] = Instances((H, W))
        outputs = [perfect(r) for r in records()]
        outputs[1] = {"sem_seg": torch.zeros(2, H, W)}
        result = evaluate(E.COCOEvaluator(NAME, output_dir=str(tmp_path)), inputs, outputs)
        assert 70 < result["bbox"]["AP50"] < 80

    def test_no_detections_give_nan_and_no_predictions_nothing(self, tmp_path):
        register()
        evaluator = E.COCOEvaluator(NAME, output_dir=str(tmp_path))
        empty = [{"instances": perfect(r)["instances"][:0]} for r in records()]
        assert math.isnan(evaluate(evaluator, records(), empty)["bbox"]["AP"])
        assert evaluate(evaluator, records(), [{} for _ in records()]) == {}

    def test_tasks_restrict_what_is_evaluated(self, tmp_path):
        register()
        outputs = [perfect(r) for r in records()]
        assert set(evaluate(E.COCOEvaluator(NAME, ("bbox",), output_dir=str(tmp_path)), records(), outputs)) == {"bbox"}
        outputs = [perfect(r, with_masks=False) for r in records()]
        assert set(evaluate(E.COCOEvaluator(NAME, output_dir=str(tmp_path)), records(), outputs)) == {"bbox"}

    def test_results_are_written_with_the_category_ids_of_the_data_set(self, tmp_path):
        register(thing_dataset_id_to_contiguous_id={10: 0, 20: 1})
        result = evaluate(E.COCOEvaluator(NAME, output_dir=str(tmp_path)), records(), [perfect(r) for r in records()])
        assert result["segm"]["AP"] == pytest.approx(100)
        written = json.load(open(tmp_path / "coco_instances_results.json"))
        assert {r["category_id"] for r in written} == {10, 20} and len(written) == 8
        assert written[0]["bbox"] == [4.0, 5.0, 20.0, 16.0]
        assert mask_util.area(written[0]["segmentation"]) == 320
        assert os.path.exists(tmp_path / "instances_predictions.pth")

    def test_image_ids_may_be_strings(self, tmp_path):
        named = [{**r, "image_id": f"frame {r['image_id']}"} for r in records()]
        DatasetCatalog.register(NAME, lambda: named)
        MetadataCatalog.get(NAME).set(thing_classes=["a", "b"])
        outputs = [perfect(r) for r in named]
        result = evaluate(E.COCOEvaluator(NAME, output_dir=str(tmp_path)), named, outputs)
        assert result["segm"]["AP"] == pytest.approx(100)

    @embedded_only
    def test_a_conversion_left_by_other_data_does_not_count(self, tmp_path):
        register(2)
        evaluate(E.COCOEvaluator(NAME, output_dir=str(tmp_path)), records(2), [perfect(r) for r in records(2)])
        DatasetCatalog.remove(NAME)
        MetadataCatalog.remove(NAME)
        (tmp_path / f"{NAME}_coco_format.json").write_text("stale")
        register(4)
        result = evaluate(E.COCOEvaluator(NAME, output_dir=str(tmp_path)), records(), [perfect(r) for r in records()])
        assert result["bbox"]["AP"] == pytest.approx(100)

    @embedded_only
    def test_what_does_not_fit_the_data_set_is_named(self, tmp_path):
        register(thing_dataset_id_to_contiguous_id={10: 0, 20: 1})
        outputs = [perfect(r) for r in records()]
        outputs[2]["instances"].pred_classes = torch.tensor([0, 5])
        with pytest.raises(ValueError, match="image 3 .* class 5"):
            evaluate(E.COCOEvaluator(NAME), records(), outputs)
        outputs = [perfect(r) for r in records()]
        foreign = [{**r, "image_id": r["image_id"] + 100} for r in records()]
        with pytest.raises(ValueError, match="101"):
            evaluate(E.COCOEvaluator(NAME), foreign, outputs)
        with pytest.raises(ValueError, match="Detectron2"):
            E.COCOEvaluator(NAME, tasks=("keypoints",))

    def test_a_test_set_without_annotations_gets_its_result_file_only(self, tmp_path):
        images = [{"id": r["image_id"], "file_name": "x", "height": H, "width": W} for r in records()]
        categories = [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}]
        (tmp_path / "info.json").write_text(json.dumps({"images": images, "categories": categories, "info": {}}))
        register(json_file=str(tmp_path / "info.json"))
        result = evaluate(E.COCOEvaluator(NAME, output_dir=str(tmp_path)), records(), [perfect(r) for r in records()])
        assert result == {} and len(json.load(open(tmp_path / "coco_instances_results.json"))) == 8

    @pytest.mark.parametrize("dtype", [torch.bool, torch.uint8])
    def test_encoded_masks_decode_to_themselves(self, dtype):
        instances = perfect(records()[0])["instances"]
        masks = torch.rand(2, H, W, generator=torch.Generator().manual_seed(0)) > 0.7
        instances.pred_masks = masks.to(dtype)
        for result, mask in zip(E.instances_to_coco_json(instances, 1), masks):
            assert (mask_util.decode(result["segmentation"]) == mask.numpy()).all()


class TestSemSeg:
    def test_metrics_follow_their_formulas(self, tmp_path):
        truth = np.array([[0, 0, 0, 1], [2, 2, 1, 255]], np.uint8)
        guess = np.array([[0, 0, 1, 1], [2, 0, 1, 0]])
        Image.fromarray(truth).save(tmp_path / "0.png")
        record = {"file_name": "0.jpg", "sem_seg_file_name": str(tmp_path / "0.png")}
        DatasetCatalog.register(NAME, lambda: [record])
        MetadataCatalog.get(NAME).set(stuff_classes=["x", "y", "z", "never"], ignore_label=255)
        scores = torch.nn.functional.one_hot(torch.as_tensor(guess), 4).permute(2, 0, 1).float()
        result = evaluate(E.SemSegEvaluator(NAME, output_dir=str(tmp_path)), [record], [{"sem_seg": scores}])["sem_seg"]
        iou = np.array([2 / 4, 2 / 3, 1 / 2])
        assert result["mIoU"] == pytest.approx(100 * iou.mean())
        assert result["fwIoU"] == pytest.approx(100 * (iou * [3, 2, 2]).sum() / 7)
        assert result["mACC"] == pytest.approx(100 * np.mean([2 / 3, 1, 1 / 2]))
        assert result["pACC"] == pytest.approx(100 * 5 / 7)
        assert result["IoU-y"] == pytest.approx(100 * 2 / 3) and math.isnan(result["IoU-never"])
        written = json.load(open(tmp_path / "sem_seg_predictions.json"))
        assert [s["category_id"] for s in written] == [0, 1, 2]
        assert (mask_util.decode(written[0]["segmentation"]) == (guess == 0)).all()


class TestLoop:
    class Counter(E.DatasetEvaluator):
        def __init__(self, task):
            self.task = task

        def reset(self):
            self.seen = []

        def process(self, inputs, outputs):
            self.seen += [(i["x"], o["y"]) for i, o in zip(inputs, outputs)]

        def evaluate(self):
            return {self.task: {"n": len(self.seen)}}

    def test_each_batch_reaches_the_model_in_evaluation_mode_and_the_mode_is_restored(self):
        class Doubler(torch.nn.Module):
            def forward(self, inputs):
                assert not self.training and not torch.is_grad_enabled()
                return [{"y": 2 * i["x"]} for i in inputs]

        model, counter = Doubler(), self.Counter("t")
        batches = [[{"x": 1}, {"x": 2}], [{"x": 3}]]
        result = E.inference_on_dataset(model, batches, [counter, self.Counter("u")])
        assert result == {"t": {"n": 3}, "u": {"n": 3}} and counter.seen == [(1, 2), (2, 4), (3, 6)]
        assert model.training
        assert E.inference_on_dataset(model, batches, None) == {}

    def test_two_evaluators_of_one_task_clash(self):
        with pytest.raises(AssertionError):
            E.inference_on_dataset(lambda x: [{"y": 0}], [[{"x": 1}]], [self.Counter("t"), self.Counter("t")])

    @embedded_only
    def test_the_mode_is_restored_after_an_error(self):
        model = torch.nn.Linear(1, 1)
        with pytest.raises(RuntimeError), E.inference_context(model):
            assert not model.training
            raise RuntimeError
        assert model.training


class TestResults:
    def test_main_metrics_are_logged_for_copying_without_those_of_single_classes(self, caplog):
        logger = logging.getLogger(E.print_csv_format.__module__)
        logger.addHandler(caplog.handler)
        logger.setLevel(logging.INFO)
        try:
            E.print_csv_format({"bbox": {"AP": 12.34567, "AP50": 20.0, "AP-cat": 1.0}})
        finally:
            logger.removeHandler(caplog.handler)
        lines = [record.getMessage() for record in caplog.records]
        assert "copypaste: AP,AP50" in lines and "copypaste: 12.3457,20.0000" in lines

    def test_unexpected_results_end_the_program(self):
        cfg = get_cfg()
        cfg.TEST.EXPECTED_RESULTS = [["bbox", "AP", 30.0, 0.5]]
        assert E.verify_results(cfg, {"bbox": {"AP": 30.4}})
        for wrong in (31.0, float("nan"), None):
            with pytest.raises(SystemExit):
                E.verify_results(cfg, {"bbox": {"AP": wrong}})

    def test_nested_results_flatten_to_paths(self):
        assert E.flatten_results_dict({"a": {"b": 1, "c": {"d": 2}}, "e": 3}) == {
            "a/b": 1,
            "a/c/d": 2,
            "e": 3,
        }
